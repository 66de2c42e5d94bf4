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
    sv_tensor w;    /* [n, k] float32 on the device, as in the checkpoint */
    sv_tensor bias; /* [n] or none */
    void *packed;   /* the device's own layout, in the weights arena; NULL when unused */
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

/* 3x3x3 sub-manifold convolution weights, prepared by sv_subm_prepare(). */
typedef struct sv_subm_weights {
    int32_t in, out;
    sv_tensor w; /* [27, in, out] float32 on the device; k = (kz*3 + ky)*3 + kx */
    void *packed;
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

/* Mamba's mixer; operators/mamba.c has the formulas. Directions: from the first token of a group, from the last. */
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
    void *packed; /* by sv_mamba_prepare(): the device's own layout, in the weights arena */
} sv_mamba_weights;

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
    int32_t node_count;
    sv_chain_node nodes[SV_CHAIN_NODES];
} sv_chain_def;

typedef struct sv_chain sv_chain; /* prepared by the device, in the weights arena */

/* A slot the caller wants as a row tensor [B*H*W, channels of the slot]. */
typedef struct sv_chain_output {
    int32_t slot;
    sv_tensor map;
} sv_chain_output;

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

enum { SV_NMS_CLASSES = 32 };

/*
 * classes 0: all boxes suppress each other, entry [0] of the arrays counts. Otherwise class by class (labels 1..classes),
 * and the output is class by class, each in descending score.
 */
typedef struct sv_nms_rule {
    int32_t classes;
    float threshold[SV_NMS_CLASSES];                           /* suppressed when IoU is greater */
    int32_t pre_max[SV_NMS_CLASSES], post_max[SV_NMS_CLASSES]; /* best candidates looked at; kept at most */
    bool exact; /* exact polygon overlap instead of the official kernel's rule */
    bool
        quarter_turn; /* boxes turned by heading - 90 degrees with dx, dy unswapped: the official class-wise NMS does that */
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
