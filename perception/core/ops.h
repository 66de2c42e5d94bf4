/* SPDX-License-Identifier: Apache-2.0
 *
 * The device primitives. ops.def lists them once; here follow the structures
 * they take, the table a device fills in, and the functions one calls:
 * sv_NAME() checks the shapes (ops_check.c: the contract, the same for every
 * device), then calls the device's function. A slot a device does not provide
 * is SV_NO_KERNEL, naming the primitive.
 */
#ifndef SV_OPS_H
#define SV_OPS_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sv_map {
#define MAP(name, expression) SV_MAP_##name,
#include "maps.def"
#undef MAP
    SV_MAP_COUNT
} sv_map;
const char *sv_map_name(sv_map map);

/* Where a function can run on both sides of CUDA. */
#ifdef __CUDACC__
#define SV_BOTH static inline __host__ __device__
#else
#define SV_BOTH static inline
#endif

/* ---- dense products ---------------------------------------------------------------------------------- */

/* y = W x + b, prepared for the device by sv_linear_prepare(). 'n' outputs, 'k' inputs. */
typedef struct sv_linear_weights {
    int32_t n, k;
    sv_tensor w;    /* [n, k] float32 on the device, as in the checkpoint; none: c->packed_only */
    sv_tensor bias; /* [n] or none */
    void *packed;   /* the device's own layout, in the weights arena; NULL when unused */
    void *narrow;   /* the same in 16-bit numbers, where the device multiplies such; else NULL */
} sv_linear_weights;

/* y[i] = (norm(x[j]) * weight + bias + skip_weight * skip[j]) * SiLU(gate[gate_index[i]]), j = index[i], the norm within each of
 * 'groups' equal groups of channels. The skip and the gate may be none, indices too: then they are i. */
typedef struct sv_head_norm_spec {
    int32_t groups;
    bool
        centred; /* minus the mean, over the deviation (GroupNorm); else over the root mean square (RMSNorm) */
    float eps;   /* added to the variance or mean square */
    sv_tensor weight, bias;      /* [C]; bias may be none */
    sv_tensor skip, skip_weight; /* [*,C], [C] */
    sv_tensor gate, gate_index;  /* [*,C], [M] */
} sv_head_norm_spec;

/* ---- voxels ------------------------------------------------------------------------------------------- */

/* The voxel grid: cell c of an axis covers [min + c*size, min + (c+1)*size). Metres; order x, y, z. */
typedef struct sv_grid {
    float min[3], max[3], size[3];
    int32_t cells[3]; /* x, y, z */
} sv_grid;

/* Result of sv_voxelize(); the caller allocates. Points of a voxel are consecutive places start[v]..start[v+1]-1. */
typedef struct sv_point_groups {
    sv_tensor coords; /* i32 [N,4] (b,z,y,x), sorted by (b,x,y,z); its offsets are written */
    sv_tensor start;  /* i32 [N+1] */
    sv_tensor rows;   /* i32 [P] point row of each place, ascending within a voxel; its offsets are written */
    sv_tensor voxel;  /* i32 [P] voxel of each place */
    int32_t *coords_offsets, *rows_offsets; /* the [B+1] arrays behind the two 'offsets' above, writable */
} sv_point_groups;

/* ---- windows and groups ------------------------------------------------------------------------------- */

/* The voxels around each voxel; the caller allocates. */
typedef struct sv_neighbourhood {
    sv_tensor table; /* i32 [N,27] */
    /* i32 [N,1] or none: all rows, those with neighbours at like offsets together, where the device's sv_subm_conv() gains by that;
     * elsewhere unspecified. */
    sv_tensor order;
} sv_neighbourhood;

/* A window partition of the voxels (FlattenedWindowMapping; pictures in voxel/voxel.h). */
typedef struct sv_window {
    int32_t window[3]; /* x, y, z */
    int32_t grid[3];   /* sparse shape z, y, x */
    int32_t group;     /* tokens of a group */
    bool shift;        /* add half a window (floor) to each coordinate */
} sv_window;

/* The sequence order of one direction. S = slots, a multiple of the group per sample. */
typedef struct sv_order {
    sv_tensor slot_row;    /* i32 [S] row each slot reads; padding slots repeat rows; offsets count slots */
    int32_t *slot_offsets; /* the [B+1] array behind slot_row.offsets, writable */
    sv_tensor row_slot;    /* i32 [N] the slot whose result a row keeps */
    sv_tensor order;       /* i32 [N] rank -> row; may be none */
    sv_tensor key;         /* i64 [N] window key of each row; may be none */
} sv_order;

typedef struct sv_window_job {
    sv_tensor coords; /* i32 [N,4] with offsets */
    sv_window window;
    sv_order x, y; /* caller allocates; x.slot_row capacity: sv_window_slots() */
} sv_window_job;

/* Slots that always suffice for 'rows' voxels in 'batch' samples. */
SV_BOTH int sv_window_slots(int rows, int batch, int group)
{
    return (rows + group - 1) / group * group + (batch - 1) * group;
}

/* ---- merging ------------------------------------------------------------------------------------------ */

/* Result of sv_merge_map(); the caller allocates. */
typedef struct sv_merge {
    sv_tensor coords;  /* i32 [M,4] merged coordinates in key order; offsets written */
    int32_t *offsets;  /* the [B+1] array behind coords.offsets, writable */
    sv_tensor inverse; /* i32 [N + 4K]: merged row of each input row, then of each diffusion copy */
    sv_tensor start;   /* i32 [M+1]: input rows of merged row m are rows[start[m]..start[m+1]-1] */
    sv_tensor
        rows; /* i32 [N], ascending within a merged row; diffusion copies carry nothing and are left out */
} sv_merge;

/* What may follow each row of a result: map(LayerNorm(row) * weight + bias); weight none: nothing. */
typedef struct sv_row_norm {
    sv_tensor weight, bias; /* [C] */
    float eps;
    sv_map map;
} sv_row_norm;

/* 3x3x3 sub-manifold convolution weights, prepared by sv_subm_prepare(). */
typedef struct sv_subm_weights {
    int32_t in, out;
    sv_row_norm norm; /* set by the caller, after preparing */
    sv_tensor w;      /* [27, in, out] float32 on the device; k = (kz*3 + ky)*3 + kx */
    void *packed;
    sv_precision precision; /* that 'packed' is made for */
} sv_subm_weights;

/* ---- sequences ---------------------------------------------------------------------------------------- */

/* Weights of sv_ttt_linear(). A mini-batch has as many tokens as 'token' has entries, at most 16. */
typedef struct sv_ttt_weights {
    int32_t heads;
    float eps;                        /* of the layer norms inside */
    sv_tensor w, b;                   /* [heads*f, f], [heads, f]: the model a walk begins with */
    sv_tensor norm_weight, norm_bias; /* [heads, f] */
    sv_tensor token; /* [1, tokens]: step size of each place in a mini-batch, times the token's rate */
    sv_tensor
        rotary; /* [tokens, f]: cosine and sine of the angle that turns channels 2i and 2i+1 of q and k; none: f may be odd */
} sv_ttt_weights;

/* A Mamba block as one operation; backbones/operators/mamba.c has the formulas. Directions: from the first token of a group,
 * from the last. */
typedef struct sv_mamba_direction {
    sv_tensor conv_weight, conv_bias; /* [inner, taps], [inner] */
    sv_linear_weights x_proj;         /* inner -> rank + 2 states */
    sv_linear_weights dt_proj;        /* rank -> inner, with bias */
    sv_tensor a, d;                   /* [inner, states], [inner] */
} sv_mamba_direction;

typedef struct sv_mamba_weights {
    int32_t inner, rank, states;
    sv_linear_weights in_proj, out_proj; /* C -> 2 inner, inner -> C */
    sv_mamba_direction direction[2];
    sv_tensor norm_weight, norm_bias; /* [C] */
    float eps;
    void *packed; /* by sv_mamba_prepare(): the device's own layout, in the weights arena */
} sv_mamba_weights;

/* Whether this device has the block as one operation, for these shapes. */
bool sv_mamba_block_fits(const sv_ctx *c, const sv_mamba_weights *w, int length);

/* Whether this device has the position embedding as one operation, for these layers. */
bool sv_position_embed_fits(const sv_ctx *c, const sv_linear_weights *mlp);

/* Whether this device has maxima over the points of voxels as one operation, for these one or two layers. */
bool sv_point_maxima_fits(const sv_ctx *c, const sv_linear_weights *w, int layers);

/* An RWKV-6 block as one operation; backbones/operators/rwkv.c has the formulas. */
typedef struct sv_rwkv_norm {
    sv_tensor weight, bias; /* [C]; none: no norm */
} sv_rwkv_norm;

typedef struct sv_rwkv_weights {
    int32_t heads, hidden;
    float eps;
    sv_rwkv_norm ln0, ln1, ln2, ln_x;         /* ln0: of the network's first block */
    sv_tensor mix_x, mix_key, mix_receptance; /* [C,2] taps: of the token before, of the token */
    sv_tensor bonus;                          /* [C] */
    sv_linear_weights mix_down, mix_up[5];    /* C -> 5*32; 32 -> C with bias: w, k, v, r, g */
    sv_linear_weights decay_down, decay_up;   /* C -> 64 -> C, with bias */
    sv_linear_weights receptance, key, value, gate, output; /* C -> C */
    sv_linear_weights ffn_key, ffn_receptance, ffn_value;   /* C -> hidden, C -> C, hidden -> C */
} sv_rwkv_weights;

/* Whether this device has the block as one operation, for these shapes. */
bool sv_rwkv_block_fits(const sv_ctx *c, const sv_rwkv_weights *w, int length);

/* An xLSTM block as one operation; backbones/operators/xlstm.c has the formulas. Directions: from the first token of a group, from
 * the last. */
typedef struct sv_xlstm_direction {
    sv_tensor norm_weight, norm_bias;       /* [C] */
    sv_linear_weights proj_up;              /* C -> 2*inner */
    sv_tensor conv_weight, conv_bias;       /* [inner, taps], [inner] */
    sv_tensor q_weight, k_weight, v_weight; /* [inner, 4] */
    sv_tensor q_bias, k_bias, v_bias;       /* [inner] or none */
    sv_linear_weights gates;                /* 3*inner -> igate | fgate */
    sv_tensor outnorm_weight, outnorm_bias; /* [inner]; the bias may be none */
    sv_tensor skip;                         /* [inner] */
    sv_linear_weights proj_down;            /* inner -> C */
} sv_xlstm_direction;

typedef struct sv_xlstm_weights {
    int32_t inner, heads;
    float norm_eps, cell_eps;
    sv_xlstm_direction direction[2];
} sv_xlstm_weights;

bool sv_xlstm_block_fits(const sv_ctx *c, const sv_xlstm_weights *w, int length);

/* A RetNet block as one operation; backbones/operators/retnet.c has the formulas. */
typedef struct sv_retnet_weights {
    int32_t heads, keys, values, hidden; /* keys, values: of all heads together */
    int32_t chunk;                       /* tokens that see each other */
    float eps, scale;
    sv_tensor decay; /* [1, heads] log g */
    sv_tensor norm_weight, norm_bias, final_weight, final_bias;
    sv_linear_weights qkv, o_proj, fc1, fc2; /* C -> 2*keys + values, values -> C, C -> hidden -> C */
} sv_retnet_weights;

bool sv_retnet_block_fits(const sv_ctx *c, const sv_retnet_weights *w, int length);

/* A TTT block as one operation; backbones/operators/ttt.c has the formulas. */
typedef struct sv_ttt_block_weights {
    int32_t hidden;
    float eps;
    sv_tensor seq_norm, ffn_norm; /* [C] */
    sv_linear_weights qkv, rate;  /* C -> 3C, C -> heads with bias */
    sv_ttt_weights cell;
    sv_tensor post_weight, post_bias;        /* [C] */
    sv_linear_weights o_proj, gate_up, down; /* C -> C, C -> 2*hidden, hidden -> C */
} sv_ttt_block_weights;

bool sv_ttt_block_fits(const sv_ctx *c, const sv_ttt_block_weights *w);

/* How a scan walks: S = groups x length slots, uniform length; slot i of an indexed input is row index[i]. */
typedef struct sv_sequence {
    sv_tensor index;     /* i32 [S] with offsets in slots; none: inputs lie in slots already */
    int32_t length;      /* tokens of a group */
    bool reverse;        /* walk each group from its last token; results stay at their slots */
    sv_tensor state_in;  /* the scan's own layout, one row per group; none: zero */
    sv_tensor state_out; /* none: not wanted */
} sv_sequence;

/* The form of sv_decay_scan()'s logarithms of decay; all are <= 0. */
typedef enum sv_decay {
    SV_DECAY_NONE,    /* 0: nothing is forgotten */
    SV_DECAY_HEAD,    /* [1, heads]: a constant of each head */
    SV_DECAY_TOKEN,   /* [*, heads]: of each token */
    SV_DECAY_CHANNEL, /* [*, heads*keys]: of each token and key channel */
    SV_DECAY_PAIR, /* [*, heads*keys + heads*values]: a of each key, b of each value channel, in 0..1, not logarithms: the element
                      (i,j) of a state keeps 1 - a_i b_j */
    SV_DECAY_VALUE, /* [*, heads*values]: of each token and value channel; sv_decay_scan() only */
} sv_decay;

/* What a token sees of the tokens walked so far. */
typedef enum sv_decay_read {
    SV_READ_AFTER,  /* the state with the token itself in it */
    SV_READ_BEFORE, /* the state the previous token left, and its own k v' through the bonus */
    SV_READ_CHUNK,  /* as AFTER, and also the later tokens of its chunk, decayed by their distance */
} sv_decay_read;

typedef struct sv_decay_rule {
    int32_t heads;
    sv_decay decay;
    sv_decay_read read;
    int32_t
        chunk; /* tokens, counted from where the walk begins; 1..64; SV_READ_CHUNK only, with no decay or HEAD */
    float scale; /* of every result */
} sv_decay_rule;

/* ---- the catalogue's cores ---------------------------------------------------------------------------- */

typedef enum sv_head_rule {
    SV_HEAD_UNIT,    /* x / sqrt(sum x^2 + number) */
    SV_HEAD_LIMITED, /* x / max(|x|, number) */
    SV_HEAD_SOFTMAX, /* of number * x */
    SV_HEAD_TIMES,   /* number * x */
} sv_head_rule;

/* What sv_state_scan()'s states are made of. C channels, N states of each. */
typedef enum sv_state_kind {
    SV_STATE_REAL,    /* a, b, c [C,N] constant */
    SV_STATE_COMPLEX, /* the same with [C,2N]: real parts, then imaginary ones */
    SV_STATE_SELECTIVE, /* a = scale e^(delta A) + shift, b = delta B, c of the token: A [C,N], delta [S,C], B, C [S,N] */
} sv_state_kind;
typedef struct sv_state_rule {
    sv_state_kind kind;
    int32_t states;
    sv_tensor a, b, c, d; /* d [C]; none: 0 */
    sv_tensor delta;
    float scale, shift;
} sv_state_rule;

/*
 * sv_delta_scan(), per token and head. 'steps' corrections follow one decay:
 *     S = diag(e^decay) S;   each step: S += k (beta (v - S'k))'
 * or, with 'a' and 'b' (then no beta, one step):
 *     S = diag(e^decay) S + b (S_before' a)' + k v'
 * and y = scale S'q. k, a, b [S, steps*heads*keys], v [S, steps*heads*values], beta [S, steps*heads], decay as in sv_decay.
 * weight [S,1] (may be none): tokens of weight 0 are passed over, y is weighed. accumulate: y is added to.
 */
typedef struct sv_delta_inputs {
    sv_tensor q, k, v, decay, beta, a, b, weight;
} sv_delta_inputs;
typedef struct sv_delta_rule {
    int32_t heads, steps;
    sv_decay decay;
    float scale;
    bool accumulate;
} sv_delta_rule;

/*
 * Second-order attention weights sum_(l<=j) (q_i.k_l)(q_j.k_l), j <= i, with sums that do not grow with time. Per head
 *     G = decay_g G + share k (k'C);  S = decay S + k k';  C = decay C + q v';  y = q'(S C - G)
 * All ones is exact; with a decay, decay_g = decay^2 and share = decay are the causal mask's, decay_g = decay and share = 1 the
 * rule as published.
 */
typedef struct sv_second_order {
    int32_t heads;
    float decay, decay_g, share;
} sv_second_order;

/* Of sv_taylor_scan(). */
typedef struct sv_taylor {
    int32_t heads;
    float scale, c0, c1, c2, eps;
    bool normalise;
} sv_taylor;

typedef enum sv_cell_kind {
    SV_CELL_SLSTM,     /* gates i, f, z, o; state y, c, n, m */
    SV_CELL_PARA_GRU,  /* gates z, r, h; state h */
    SV_CELL_PARA_LSTM, /* gates f, o, c; state h, c */
} sv_cell_kind;

/* gates of x; 'own': the weights by which the cell's state comes back: SLSTM [heads*width, 4*width], each head's y -> gates;
 * the others [gates, C]. 'peephole' [2,C] of PARA_LSTM. 'newton': 0 walks; else so many Newton iterations over the whole
 * group from the cell's answers to an empty state, as a parallel device would (PARA_* only, without states). */
typedef struct sv_cell {
    sv_cell_kind kind;
    int32_t heads, newton;
    sv_tensor own, peephole;
} sv_cell;

/*
 * Memories that take gradient steps on the tokens they see; formulas in memory.simd.c.
 *   GRADIENT, MLP   one or two layers, steps of a mini-batch taken at its start (TTT); row and column [S,heads]: eta_ij = row_i
 *                   column_j. State: W and b, all heads of each part together (MLP: W1, b1, W2, b2)
 *   MOMENTUM        Titans, gradients at the start of a chunk; row theta, column alpha, third eta. State: M, then S
 *   HUBER, NORM, SOFTMAX   Miras' YAAD, MONETA, MEMORA, token by token; row eta, column alpha, third delta (HUBER). State: W,
 *                   keys before values (SOFTMAX: logarithms, up to a constant per value; none: equal shares)
 */
typedef enum sv_memory_kind {
    SV_MEMORY_GRADIENT,
    SV_MEMORY_MLP,
    SV_MEMORY_MOMENTUM,
    SV_MEMORY_HUBER,
    SV_MEMORY_NORM,
    SV_MEMORY_SOFTMAX,
} sv_memory_kind;
typedef struct sv_memory_inputs {
    sv_tensor q, k, v; /* [S, heads*width] */
    sv_tensor row, column, third;
    sv_tensor norm_weight, norm_bias; /* [heads, width]; Miras: none */
} sv_memory_inputs;
typedef struct sv_memory {
    sv_memory_kind kind;
    int32_t heads, hidden, batch; /* channels inside an MLP; tokens of a mini-batch, at most 64 */
    float scale, eps;             /* of q; of the layer norms inside */
    bool query_residual;          /* y = q + LN(o) instead of o + LN(o) */
    bool padded; /* the last mini-batch's missing tokens are tokens of zeros, as in the reference that pads */
} sv_memory;

/*
 * Softmax attention among the last few tokens, which are carried: a token sees itself and what came before it within
 * 'window', or with 'chunked' within its chunk of 'window' tokens, counted from where the stream began. Tokens whose
 * weight is 0 are not there: they see nothing, are not seen and do not count; results are multiplied by the weight.
 * State [G, heads*(window*(keys + values) + 1)]: of all heads the last keys (the oldest first), then the values, then
 * how many tokens there were.
 */
typedef struct sv_local_rule {
    int32_t heads, window;
    bool chunked;
    float scale;
} sv_local_rule;

/*
 * States that are asked and rewritten block by block (Block-Recurrent Transformer). N states of D channels; with
 * E = heads*width channels their own queries, keys and values are self s, cross s, key s, value s. A token reads
 * softmax(scale q.keys) values of the states before its block; behind a block each state reads all states with its self
 * query, the block's tokens with its cross query, and becomes gate s + (1 - gate) (out [both] + bias). A walk begins
 * with a block; its last one may be shorter. State [G, N*D].
 */
typedef struct sv_block_states {
    int32_t heads, states, block;
    float scale;
    sv_tensor self, cross, key, value; /* [E,D] */
    sv_tensor out, bias, gate;         /* [D,2E], [D], [D] (in 0..1) */
} sv_block_states;

/*
 * Memories deeper than sv_memory_scan()'s, walked in double; q, k, v [S, heads*width], theta, alpha, eta, gamma [S,heads].
 *   PERCEPTRON (Titans)  f(x) = gelu(x W1) W2, tanh form; gradients g of |f(k) - v|^2 / 2 at the start of a chunk of
 *       'batch' tokens: S = eta S - theta g,  M = (1 - alpha) M + S,  y = f_M(q). State: W1, W2, then S of both
 *   OMEGA (ATLAS)  M [F,width] over the F = 1 + width + width (width+1)/2 monomials phi of x (1, x_i, x_i x_j, i <= j):
 *       S = theta S + sum over the last 'batch' tokens i of gamma_i phi(k_i) (phi(k_i)'M - v_i)',
 *       M = (1 - alpha) M - eta NS(S),  y = phi(q)'M. NS: five Newton-Schulz steps from S / |S|, which make a matrix
 *       nearly orthogonal. State: M, S, then of the last batch-1 tokens (oldest first) k, v, gamma
 * State: of all heads each part together. A walk of PERCEPTRON begins with a chunk.
 */
typedef enum sv_deep_kind { SV_DEEP_PERCEPTRON, SV_DEEP_OMEGA } sv_deep_kind;
typedef struct sv_deep_memory {
    sv_deep_kind kind;
    int32_t heads, hidden, batch;
} sv_deep_memory;
typedef struct sv_deep_inputs {
    sv_tensor q, k, v, theta, alpha, eta, gamma; /* gamma: OMEGA */
} sv_deep_inputs;

/* ---- cameras ------------------------------------------------------------------------------------------ */

/* Views of sv_camera_sample(): grids of rows x columns features, that of a token at the middle of its cell. A view sees what
 * projects into the grid at a distance w of nearest..farthest, unless, in the same of SV_CAMERA_FINE^2 parts of a token's cell,
 * something is nearer by more than 'hidden' (0: nothing hides). */
/* Columns of a view: where its lens begins, and all of them. */
enum { SV_CAMERA_FINE = 4, SV_CAMERA_LENS = 13, SV_CAMERA_VIEW = 22 };
typedef struct sv_camera_rule {
    int32_t views, rows, columns; /* views of a sample, at most 16 */
    float nearest, farthest, hidden;
} sv_camera_rule;

/* ---- BEV convolution chains --------------------------------------------------------------------------- */

typedef enum sv_chain_kind {
    SV_CHAIN_CONV,   /* k x k, zero padding (k-1)/2 for odd k and 0 for even k, any stride */
    SV_CHAIN_DECONV, /* transposed, kernel = stride, no padding */
} sv_chain_kind;

enum { SV_CHAIN_NODES = 64 };

/*
 * One node: out = [relu](conv(in) + bias [+ add]). Slot 0 is the chain's input. A slot may be written by
 * several nodes at disjoint channel ranges (concatenation): 'out_first' is the first channel.
 */
typedef struct sv_chain_node {
    sv_chain_kind kind;
    int32_t in, out; /* slots */
    int32_t kernel, stride;
    int32_t in_channels, out_channels, out_first;
    int32_t add; /* slot added before the ReLU; -1: none */
    bool relu;
    const float *w;    /* host; conv [out][in][k][k], deconv [in][out][k][k]; BatchNorm folded in */
    const float *bias; /* host [out_channels]; NULL: none */
} sv_chain_node;

typedef struct sv_chain_def {
    int32_t in_channels, height, width; /* of slot 0 */
    bool reuse_input; /* other maps may lie in the input's memory: after a run it holds anything */
    int32_t node_count;
    sv_chain_node nodes[SV_CHAIN_NODES];
} sv_chain_def;

typedef struct sv_chain sv_chain; /* prepared by the device, in the weights arena */

/* A slot the caller wants as a row tensor [B*H*W, channels of the slot]. */
typedef struct sv_chain_output {
    int32_t slot;
    sv_tensor map;
} sv_chain_output;

/* ---- maps of video blocks ------------------------------------------------------------------------------ */

/* A convolution over maps of one size, prepared by sv_map_conv_prepare(). */
typedef struct sv_map_conv_weights {
    int32_t in, out, kernel, height, width;
    void *packed;    /* the device's own layout */
    sv_tensor bias;  /* [out] or none */
    sv_tensor patch; /* i32 [height*width, kernel*kernel]: cell under each tap, -1 outside */
} sv_map_conv_weights;

/* ---- detections --------------------------------------------------------------------------------------- */

enum { SV_BOX_FIELDS = 9 }; /* x, y, z, dx, dy, dz, heading, vx, vy */

/* Boxes of B samples, each sample's in descending score (ties by candidate index). */
typedef struct sv_candidates {
    sv_tensor boxes;  /* f32 [K, 9]; offsets written */
    int32_t *offsets; /* the [B+1] array behind boxes.offsets */
    sv_tensor scores; /* f32 [K] */
    sv_tensor labels; /* i32 [K], 1-based */
    sv_tensor index;  /* i32 [K], candidate (anchor) number within its sample; may be none */
} sv_candidates;

enum { SV_MAX_ANCHORS = 32 };

/* Anchor grid of AnchorHeadSingle: class-major, then rotation. Facts in heads/anchor.c. */
typedef struct sv_anchor_grid {
    int32_t height, width, classes, per_cell; /* per_cell = classes * rotations */
    float x_min, x_step, y_min, y_step;       /* centre of cell (y,x) = y_min + y*y_step, ... in float32 */
    float size[SV_MAX_ANCHORS][3], z[SV_MAX_ANCHORS], rotation[SV_MAX_ANCHORS]; /* z of the box centre */
    float direction_offset, direction_limit;
    int32_t direction_bins; /* 0: no direction classifier */
} sv_anchor_grid;

/* Anchor 'index' of a sample: x, y, z, dx, dy, dz, heading. */
SV_BOTH void sv_anchor_at(const sv_anchor_grid *grid, int index, float out[7])
{
    const int kind = index % grid->per_cell, cell = index / grid->per_cell;
    out[0] = grid->x_min + (float)(cell % grid->width) * grid->x_step;
    out[1] = grid->y_min + (float)(cell / grid->width) * grid->y_step;
    out[2] = grid->z[kind];
    for (int i = 0; i < 3; i++) out[3 + i] = grid->size[kind][i];
    out[6] = grid->rotation[kind];
}

enum { SV_HEAT_CHANNELS = 32, SV_ATTENTION_HEADS = 64 };

/* Windows of sv_local_peaks(), (2 radius + 1)^2 cells. A cell whose window leaves the map is no peak. */
typedef struct sv_peak_rule {
    int32_t height, width, radius;
    uint32_t alone; /* bit c: channel c has windows of one cell; everything in it is a peak */
} sv_peak_rule;

/*
 * How sv_top_cells() numbers what it chooses from: channel * (height * width) + cell, where the cell of (y, x)
 * is y * width + x or, with 'by_column', x * height + y.
 */
typedef struct sv_cell_order {
    int32_t height, width;
    bool by_column;
    float middle; /* added to x and y of 'place' */
} sv_cell_order;

/* Groups of neighbouring channels: group g ends before channel end[g]. */
typedef struct sv_channel_groups {
    int32_t count, end[SV_HEAT_CHANNELS];
} sv_channel_groups;

/* Result of sv_top_cells(): K rows of each sample, one sample behind the other. The caller allocates. */
typedef struct sv_cell_picks {
    sv_tensor row;     /* i32 [B*K] row of the map */
    sv_tensor channel; /* i32 [B*K] */
    sv_tensor score;   /* f32 [B*K] */
    sv_tensor place;   /* f32 [B*K, 2] x, y in cells */
} sv_cell_picks;

/*
 * Window of sv_window_attention(): up to 2 radius + 1 cells along x and y. The official head counts cells
 * column by column (n = x * width + y) and takes n + ox * width + oy for its offsets, leaving out only numbers
 * that no cell has: where y + oy leaves the map, the window goes on at the other end of the next or previous
 * column. So this does; the map is square.
 */
typedef struct sv_cell_window {
    int32_t heads, radius, width; /* width = height of the map */
    float scale;
} sv_cell_window;

/* Codes of sv_center_decode(), [*, n] each. 'velocity', 'overlap' and 'confidence' may be none. */
typedef struct sv_center_codes {
    bool gathered;      /* row i belongs to pick i; otherwise these are maps, read at the row picked */
    sv_tensor center;   /* [.,2] x, y from the pick's place, cells */
    sv_tensor z;        /* [.,1] metres */
    sv_tensor size;     /* [.,3] logarithms */
    sv_tensor rotation; /* [.,2] cosine and sine, up to a common factor */
    sv_tensor velocity; /* [.,2] */
    sv_tensor overlap;  /* [.,1] predicted IoU, -1..1 */
    sv_tensor
        confidence; /* [., channels] logits: the score is the pick's times the sigmoid of its channel's */
} sv_center_codes;

typedef struct sv_center_rule {
    int32_t channels;
    float stride, cell[2], origin[2]; /* x = place * stride * cell + origin */
    float range_min[3], range_max[3]; /* of the centre, ends included */
    float min_score;                  /* kept above it, before rescoring */
    bool sine_first;                  /* of 'rotation' */
    bool top_face;                    /* 'z' is the top face, not the centre */
    bool rescore;                     /* score^(1-a) * overlap^a with a = rectifier of the channel */
    float rectifier[SV_HEAT_CHANNELS];
} sv_center_rule;

enum { SV_NMS_CLASSES = 32 };

/*
 * classes 0: all boxes suppress each other, entry [0] of the arrays counts. Otherwise class by class (labels 1..classes),
 * and the output is class by class, each in descending score. An infinite threshold suppresses nothing.
 */
typedef struct sv_nms_rule {
    int32_t classes;
    float threshold[SV_NMS_CLASSES];                           /* suppressed when IoU is greater */
    int32_t pre_max[SV_NMS_CLASSES], post_max[SV_NMS_CLASSES]; /* best candidates looked at; kept at most */
    bool exact; /* exact polygon overlap instead of the official kernel's rule */
    bool
        quarter_turn; /* boxes turned by heading - 90 degrees with dx, dy unswapped: the official class-wise NMS does that */
    bool by_index; /* the output in ascending candidate index instead */
} sv_nms_rule;

/* ---- the table ---------------------------------------------------------------------------------------- */

struct sv_ops {
#define OP(name, parameters, arguments) sv_status(*name) parameters;
#include "ops.def"
#undef OP
};

#define OP(name, parameters, arguments) sv_status sv_##name parameters;
#include "ops.def"
#undef OP

#ifdef __cplusplus
}
#endif

#endif
