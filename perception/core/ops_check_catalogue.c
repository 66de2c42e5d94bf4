/* SPDX-License-Identifier: Apache-2.0
 *
 * The contract of the catalogue's cores: shapes of their arguments. Token tensors lie in slots, without an index.
 */
#include "ops_check.h"

/* A float matrix of at least 'rows' rows, and of 'columns' columns where that is not negative. */
static sv_status needs(sv_ctx *c, const char *op, const char *what, sv_tensor t, int rows, int columns)
{
    SV_CHECK(c,
             !sv_is_none(t) && t.ndim == 2 && t.dtype == SV_F32 && t.dim[0] >= rows &&
                 (columns < 0 || t.dim[1] == columns),
             SV_BAD_SHAPE, "%s: '%s' is [%d,%d] of type %d; floats [>=%d,%d] are expected", op, what,
             t.dim[0], t.dim[1], t.dtype, rows, columns);
    return SV_OK;
}

static sv_status numbers(sv_ctx *c, const char *op, const char *what, sv_tensor t, int64_t count)
{
    SV_CHECK(c, !sv_is_none(t) && t.dtype == SV_F32 && t.dim[0] * sv_row_elements(t) == count, SV_BAD_SHAPE,
             "%s: '%s' holds %lld numbers, not %lld", op, what, (long long)(t.dim[0] * sv_row_elements(t)),
             (long long)count);
    return SV_OK;
}

/* Columns that divide into 'heads' equal parts of at most 'most'. */
static sv_status divides(sv_ctx *c, const char *op, const char *what, int columns, int heads, int most)
{
    SV_CHECK(c, heads >= 1 && columns >= heads && columns % heads == 0, SV_BAD_SHAPE,
             "%s: %d columns of '%s' do not divide into %d heads", op, columns, what, heads);
    SV_CHECK(c, columns / heads <= most, SV_UNSUPPORTED,
             "%s: '%s' has %d channels a head; 1 to %d are supported", op, what, columns / heads, most);
    return SV_OK;
}

static sv_status walks(sv_ctx *c, const char *op, sv_tensor y, const sv_sequence *seq, int64_t state)
{
    SV_TRY(needs(c, op, "y", y, 0, -1));
    SV_CHECK(c, sv_is_none(seq->index), SV_BAD_SHAPE, "%s: its inputs lie in slots; an index is not taken",
             op);
    SV_CHECK(c, seq->length >= 1 && y.dim[0] % seq->length == 0, SV_BAD_SHAPE,
             "%s: %d slots are no whole number of groups of %d", op, y.dim[0], seq->length);
    SV_CHECK(c, state <= INT32_MAX, SV_UNSUPPORTED, "%s: a state of %lld numbers", op, (long long)state);
    const int groups = y.dim[0] / seq->length;
    if (!sv_is_none(seq->state_in)) SV_TRY(needs(c, op, "state_in", seq->state_in, groups, (int)state));
    if (!sv_is_none(seq->state_out)) SV_TRY(needs(c, op, "state_out", seq->state_out, groups, (int)state));
    return SV_OK;
}

/* A row per token, or one for all. */
static sv_status token_or_constant(sv_ctx *c, const char *op, const char *what, sv_tensor t, int rows,
                                   int columns)
{
    return needs(c, op, what, t, !sv_is_none(t) && t.dim[0] == 1 ? 1 : rows, columns);
}

sv_status sv_check_fill(sv_ctx *c, sv_tensor y, float value)
{
    (void)value;
    return needs(c, "fill", "y", y, 0, -1);
}

sv_status sv_check_place_rows(sv_ctx *c, sv_tensor y, sv_tensor table, const sv_sequence *seq)
{
    SV_TRY(needs(c, "place_rows", "y", y, 0, -1));
    SV_CHECK(c, seq->length >= 1 && y.dim[0] % seq->length == 0, SV_BAD_SHAPE,
             "place_rows: %d slots are no whole number of groups of %d", y.dim[0], seq->length);
    return needs(c, "place_rows", "table", table, 1, y.dim[1]);
}

sv_status sv_check_root_gates(sv_ctx *c, sv_tensor a, sv_tensor y, sv_tensor log_a, sv_tensor x,
                              sv_tensor position, const sv_sequence *seq)
{
    SV_TRY(needs(c, "root_gates", "y", y, 0, -1));
    SV_CHECK(c, seq->length >= 1 && y.dim[0] % seq->length == 0, SV_BAD_SHAPE,
             "root_gates: %d slots are no whole number of groups of %d", y.dim[0], seq->length);
    SV_TRY(needs(c, "root_gates", "a", a, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, "root_gates", "log_a", log_a, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, "root_gates", "x", x, y.dim[0], y.dim[1]));
    return sv_is_none(position) ? SV_OK : needs(c, "root_gates", "position", position, y.dim[0], 1);
}

sv_status sv_check_column_scale(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor w, sv_tensor base)
{
    SV_TRY(needs(c, "column_scale", "y", y, 0, -1));
    SV_TRY(needs(c, "column_scale", "x", x, y.dim[0], y.dim[1]));
    if (!sv_is_none(base)) SV_TRY(needs(c, "column_scale", "base", base, y.dim[0], y.dim[1]));
    return numbers(c, "column_scale", "w", w, y.dim[1]);
}

sv_status sv_check_head_dot(sv_ctx *c, sv_tensor y, sv_tensor a, sv_tensor b, sv_tensor w)
{
    SV_TRY(needs(c, "head_dot", "y", y, 0, -1));
    SV_TRY(needs(c, "head_dot", "a", a, y.dim[0], -1));
    if (!sv_is_none(b)) SV_TRY(needs(c, "head_dot", "b", b, y.dim[0], a.dim[1]));
    SV_TRY(divides(c, "head_dot", "a", a.dim[1], y.dim[1], INT32_MAX));
    return sv_is_none(w) ? SV_OK : numbers(c, "head_dot", "w", w, a.dim[1]);
}

sv_status sv_check_head_map(sv_ctx *c, sv_tensor y, sv_tensor x, int heads, sv_head_rule rule, float number)
{
    (void)rule, (void)number;
    SV_TRY(needs(c, "head_map", "y", y, 0, -1));
    SV_TRY(needs(c, "head_map", "x", x, y.dim[0], y.dim[1]));
    return divides(c, "head_map", "y", y.dim[1], heads, INT32_MAX);
}

sv_status sv_check_head_scale(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor s, bool divide, float eps)
{
    (void)divide, (void)eps;
    SV_TRY(needs(c, "head_scale", "y", y, 0, -1));
    SV_TRY(needs(c, "head_scale", "x", x, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, "head_scale", "s", s, y.dim[0], -1));
    return divides(c, "head_scale", "y", y.dim[1], s.dim[1], INT32_MAX);
}

sv_status sv_check_position_power(sv_ctx *c, sv_tensor y, sv_tensor exponent, bool whole,
                                  const sv_sequence *seq)
{
    (void)whole;
    SV_TRY(walks(c, "position_power", y, seq, 1));
    return numbers(c, "position_power", "exponent", exponent, y.dim[1]);
}

sv_status sv_check_route(sv_ctx *c, sv_tensor y, sv_tensor picks, sv_tensor x, int count)
{
    SV_TRY(needs(c, "route", "y", y, 0, -1));
    SV_TRY(needs(c, "route", "x", x, y.dim[0], y.dim[1]));
    SV_CHECK(c, count >= 1 && count <= y.dim[1] && count <= 16, SV_UNSUPPORTED,
             "route: the best %d of %d; 1 to 16, and no more than there are", count, y.dim[1]);
    SV_CHECK(
        c, sv_is_none(picks) || (picks.dtype == SV_I32 && picks.dim[0] >= y.dim[0] && picks.dim[1] == count),
        SV_BAD_SHAPE, "route: 'picks' is [%d,%d] of type %d", picks.dim[0], picks.dim[1], picks.dtype);
    return SV_OK;
}

sv_status sv_check_diagonal_scan(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor a, bool log,
                                 bool complex_numbers, const sv_sequence *seq)
{
    SV_TRY(walks(c, "diagonal_scan", y, seq, y.dim[1]));
    SV_CHECK(c, !complex_numbers || (!log && y.dim[1] % 2 == 0), SV_BAD_SHAPE,
             "diagonal_scan: complex numbers come in pairs and not as logarithms");
    SV_TRY(needs(c, "diagonal_scan", "x", x, y.dim[0], y.dim[1]));
    return token_or_constant(c, "diagonal_scan", "a", a, y.dim[0], y.dim[1]);
}

sv_status sv_check_log_sum_scan(sv_ctx *c, sv_tensor weight, sv_tensor decay, sv_tensor x,
                                const sv_sequence *seq, bool whole)
{
    SV_TRY(walks(c, "log_sum_scan", weight, seq, 2 * (int64_t)weight.dim[1]));
    SV_TRY(needs(c, "log_sum_scan", "x", x, weight.dim[0], weight.dim[1]));
    SV_CHECK(c, !whole || sv_is_none(decay), SV_BAD_SHAPE, "log_sum_scan: a whole group's sum has no decay");
    return sv_is_none(decay) ? SV_OK : needs(c, "log_sum_scan", "decay", decay, weight.dim[0], weight.dim[1]);
}

sv_status sv_check_state_scan(sv_ctx *c, sv_tensor y, sv_tensor u, const sv_state_rule *rule,
                              const sv_sequence *seq)
{
    const int parts = rule->kind == SV_STATE_COMPLEX ? 2 : 1, columns = parts * rule->states,
              slots = y.dim[0];
    SV_CHECK(c, rule->states >= 1 && rule->states <= 4096, SV_UNSUPPORTED, "state_scan: %d states",
             rule->states);
    SV_TRY(walks(c, "state_scan", y, seq, (int64_t)columns * y.dim[1]));
    SV_TRY(needs(c, "state_scan", "u", u, slots, y.dim[1]));
    SV_TRY(needs(c, "state_scan", "a", rule->a, y.dim[1], columns));
    if (!sv_is_none(rule->d)) SV_TRY(numbers(c, "state_scan", "d", rule->d, y.dim[1]));
    if (rule->kind == SV_STATE_SELECTIVE) {
        SV_TRY(needs(c, "state_scan", "delta", rule->delta, slots, y.dim[1]));
        SV_TRY(needs(c, "state_scan", "b", rule->b, slots, rule->states));
        return needs(c, "state_scan", "c", rule->c, slots, rule->states);
    }
    SV_TRY(needs(c, "state_scan", "b", rule->b, y.dim[1], columns));
    return needs(c, "state_scan", "c", rule->c, y.dim[1], columns);
}

sv_status sv_check_dense_scan(sv_ctx *c, sv_tensor y, sv_tensor u, sv_tensor a, sv_tensor b,
                              const sv_sequence *seq)
{
    SV_TRY(walks(c, "dense_scan", y, seq, y.dim[1]));
    SV_TRY(needs(c, "dense_scan", "A", a, y.dim[1], -1));
    SV_TRY(divides(c, "dense_scan", "y", y.dim[1], y.dim[1] / (a.dim[1] > 0 ? a.dim[1] : 1), 4096));
    SV_TRY(numbers(c, "dense_scan", "b", b, y.dim[1]));
    return needs(c, "dense_scan", "u", u, y.dim[0], y.dim[1] / a.dim[1]);
}

sv_status sv_check_delta_scan(sv_ctx *c, sv_tensor y, const sv_delta_inputs *in, const sv_delta_rule *rule,
                              const sv_sequence *seq)
{
    static const char op[] = "delta_scan";
    const int heads = rule->heads, slots = y.dim[0];
    SV_TRY(needs(c, op, "q", in->q, slots, -1));
    SV_TRY(divides(c, op, "q", in->q.dim[1], heads, 256));
    SV_TRY(divides(c, op, "y", y.dim[1], heads, 65536));
    SV_TRY(walks(c, op, y, seq, (int64_t)in->q.dim[1] * (y.dim[1] / heads)));
    SV_CHECK(c, rule->steps >= 1 && rule->steps <= 64, SV_UNSUPPORTED, "%s: %d steps a token", op,
             rule->steps);
    SV_TRY(needs(c, op, "k", in->k, slots, rule->steps * in->q.dim[1]));
    SV_TRY(needs(c, op, "v", in->v, slots, rule->steps * y.dim[1]));
    if (!sv_is_none(in->weight)) SV_TRY(needs(c, op, "weight", in->weight, slots, 1));
    SV_CHECK(c, sv_is_none(in->a) == sv_is_none(in->b), SV_BAD_SHAPE, "%s: 'a' and 'b' come together", op);
    if (sv_is_none(in->a)) {
        SV_TRY(needs(c, op, "beta", in->beta, slots, rule->steps * heads));
    } else {
        SV_CHECK(c, rule->steps == 1 && sv_is_none(in->beta), SV_BAD_SHAPE,
                 "%s: with 'a' and 'b' there is one step and no beta", op);
        SV_TRY(needs(c, op, "a", in->a, slots, in->q.dim[1]));
        SV_TRY(needs(c, op, "b", in->b, slots, in->q.dim[1]));
    }
    if (rule->decay == SV_DECAY_NONE) return SV_OK;
    if (rule->decay == SV_DECAY_HEAD) return numbers(c, op, "decay", in->decay, heads);
    return needs(c, op, "decay", in->decay, slots, rule->decay == SV_DECAY_CHANNEL ? in->q.dim[1] : heads);
}

sv_status sv_check_second_order_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                     const sv_second_order *rule, const sv_sequence *seq)
{
    static const char op[] = "second_order_scan";
    SV_TRY(needs(c, op, "q", q, y.dim[0], -1));
    SV_TRY(divides(c, op, "q", q.dim[1], rule->heads, 256));
    SV_TRY(divides(c, op, "y", y.dim[1], rule->heads, 65536));
    const int64_t keys = q.dim[1] / rule->heads, values = y.dim[1] / rule->heads;
    SV_TRY(walks(c, op, y, seq, rule->heads * keys * (keys + 2 * values)));
    SV_TRY(needs(c, op, "k", k, y.dim[0], q.dim[1]));
    return needs(c, op, "v", v, y.dim[0], y.dim[1]);
}

sv_status sv_check_taylor_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                               const sv_taylor *rule, const sv_sequence *seq)
{
    static const char op[] = "taylor_scan";
    SV_TRY(needs(c, op, "q", q, y.dim[0], -1));
    SV_TRY(divides(c, op, "q", q.dim[1], rule->heads, 256));
    SV_TRY(divides(c, op, "y", y.dim[1], rule->heads, 65536));
    const int64_t keys = q.dim[1] / rule->heads, features = 1 + keys + keys * (keys + 1) / 2;
    SV_TRY(walks(c, op, y, seq, rule->heads * features * (y.dim[1] / rule->heads + 1)));
    SV_TRY(needs(c, op, "k", k, y.dim[0], q.dim[1]));
    return needs(c, op, "v", v, y.dim[0], y.dim[1]);
}

sv_status sv_check_mesa_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor g,
                             sv_tensor beta, sv_tensor lamb, int heads, const sv_sequence *seq)
{
    static const char op[] = "mesa_scan";
    SV_TRY(needs(c, op, "q", q, y.dim[0], -1));
    SV_TRY(divides(c, op, "q", q.dim[1], heads, 256));
    SV_TRY(divides(c, op, "y", y.dim[1], heads, 65536));
    const int64_t keys = q.dim[1] / heads, values = y.dim[1] / heads;
    SV_TRY(walks(c, op, y, seq, heads * keys * (keys + values)));
    SV_TRY(needs(c, op, "k", k, y.dim[0], q.dim[1]));
    SV_TRY(needs(c, op, "v", v, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, op, "g", g, y.dim[0], heads));
    SV_TRY(needs(c, op, "beta", beta, y.dim[0], heads));
    return numbers(c, op, "lamb", lamb, q.dim[1]);
}

sv_status sv_check_mixer_scan(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor b, sv_tensor lam, sv_tensor u,
                              sv_tensor alpha, const sv_sequence *seq)
{
    static const char op[] = "mixer_scan";
    SV_TRY(walks(c, op, y, seq, y.dim[1]));
    SV_TRY(needs(c, op, "x", x, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, op, "b", b, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, op, "lam", lam, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, op, "alpha", alpha, y.dim[0], -1));
    SV_CHECK(c, alpha.dim[1] >= 1 && alpha.dim[1] <= 16, SV_UNSUPPORTED,
             "%s: %d factors; 1 to 16 are supported", op, alpha.dim[1]);
    return needs(c, op, "u", u, y.dim[0], alpha.dim[1] * y.dim[1]);
}

sv_status sv_check_cell_scan(sv_ctx *c, sv_tensor y, sv_tensor cell, sv_tensor x, const sv_cell *rule,
                             const sv_sequence *seq)
{
    static const char op[] = "cell_scan";
    static const int gates[] = {4, 3, 3}, parts[] = {4, 1, 2};
    SV_TRY(walks(c, op, y, seq, (int64_t)parts[rule->kind] * y.dim[1]));
    SV_TRY(needs(c, op, "x", x, y.dim[0], gates[rule->kind] * y.dim[1]));
    if (!sv_is_none(cell)) SV_TRY(needs(c, op, "cell", cell, y.dim[0], y.dim[1]));
    if (rule->kind == SV_CELL_SLSTM) {
        SV_TRY(divides(c, op, "y", y.dim[1], rule->heads, 4096));
        SV_CHECK(c, rule->newton == 0, SV_UNSUPPORTED, "%s: no Newton iterations for this cell", op);
        return needs(c, op, "own", rule->own, y.dim[1], 4 * y.dim[1] / rule->heads);
    }
    SV_CHECK(c, rule->newton >= 0 && (rule->newton == 0 || sv_is_none(seq->state_in)), SV_UNSUPPORTED,
             "%s: Newton iterations begin with an empty state", op);
    SV_TRY(needs(c, op, "own", rule->own, gates[rule->kind], y.dim[1]));
    return rule->kind == SV_CELL_PARA_LSTM ? needs(c, op, "peephole", rule->peephole, 2, y.dim[1]) : SV_OK;
}

sv_status sv_check_memory_scan(sv_ctx *c, sv_tensor y, const sv_memory_inputs *in, const sv_memory *rule,
                               const sv_sequence *seq)
{
    static const char op[] = "memory_scan";
    const int heads = rule->heads;
    SV_TRY(divides(c, op, "y", y.dim[1], heads, 1024));
    const int64_t width = y.dim[1] / heads, hidden = rule->hidden;
    const int64_t state[] = {width * width + width, width * hidden + hidden + hidden * width + width,
                             2 * width * width,     width * width,
                             width * width,         width * width};
    SV_TRY(walks(c, op, y, seq, heads * state[rule->kind]));
    SV_CHECK(c, rule->kind != SV_MEMORY_MLP || (hidden >= 1 && hidden <= 8192), SV_UNSUPPORTED,
             "%s: %lld hidden channels", op, (long long)hidden);
    SV_CHECK(c, rule->batch >= 1 && rule->batch <= 64, SV_UNSUPPORTED,
             "%s: mini-batches of %d tokens; 1 to 64 are supported", op, rule->batch);
    SV_TRY(needs(c, op, "q", in->q, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, op, "k", in->k, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, op, "v", in->v, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, op, "row", in->row, y.dim[0], heads));
    SV_TRY(needs(c, op, "column", in->column, y.dim[0], heads));
    if (rule->kind == SV_MEMORY_MOMENTUM || rule->kind == SV_MEMORY_HUBER)
        SV_TRY(needs(c, op, "third", in->third, y.dim[0], heads));
    if (rule->kind > SV_MEMORY_MOMENTUM) return SV_OK;
    SV_TRY(numbers(c, op, "norm_weight", in->norm_weight, y.dim[1]));
    return numbers(c, op, "norm_bias", in->norm_bias, y.dim[1]);
}

sv_status sv_check_attention_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                  sv_tensor decay, int heads, float scale, int window, int stride,
                                  const sv_sequence *seq)
{
    static const char op[] = "attention_scan";
    (void)scale;
    SV_TRY(walks(c, op, y, seq, 0));
    SV_CHECK(c, sv_is_none(seq->state_in) && sv_is_none(seq->state_out) && window >= 0 && stride >= 1,
             SV_UNSUPPORTED, "%s: attention carries no state", op);
    SV_TRY(needs(c, op, "q", q, y.dim[0], -1));
    SV_TRY(divides(c, op, "q", q.dim[1], heads, 4096));
    SV_TRY(divides(c, op, "y", y.dim[1], heads, 4096));
    SV_TRY(needs(c, op, "k", k, y.dim[0], q.dim[1]));
    SV_TRY(needs(c, op, "v", v, y.dim[0], y.dim[1]));
    return sv_is_none(decay) ? SV_OK : needs(c, op, "decay", decay, y.dim[0], heads);
}

sv_status sv_check_dense_attention(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, int heads,
                                   float scale, int length)
{
    static const char op[] = "dense_attention";
    SV_TRY(needs(c, op, "y", y, 0, -1));
    SV_CHECK(c, length >= 1 && y.dim[0] % length == 0, SV_BAD_SHAPE,
             "%s: %d rows are no whole number of groups of %d", op, y.dim[0], length);
    SV_CHECK(c, scale > 0, SV_BAD_SHAPE, "%s: scores are scaled by %g", op, (double)scale);
    SV_TRY(needs(c, op, "q", q, y.dim[0], -1));
    SV_TRY(divides(c, op, "q", q.dim[1], heads, 4096));
    SV_TRY(divides(c, op, "y", y.dim[1], heads, 4096));
    SV_TRY(needs(c, op, "k", k, y.dim[0], q.dim[1]));
    return needs(c, op, "v", v, y.dim[0], y.dim[1]);
}

/* ---- windows, blocks and deep memories ------------------------------------------------------------------ */

sv_status sv_check_dilated_conv(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor w, sv_tensor bias,
                                int dilation, const sv_sequence *seq)
{
    static const char op[] = "dilated_conv";
    SV_CHECK(c, dilation >= 1 && dilation <= 4096 && w.dim[1] >= 1 && w.dim[1] <= 64, SV_UNSUPPORTED,
             "%s: %d taps %d tokens apart; 1 to 64 and 1 to 4096 are supported", op, w.dim[1], dilation);
    SV_TRY(needs(c, op, "x", x, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, op, "w", w, y.dim[1], -1));
    SV_TRY(numbers(c, op, "bias", bias, y.dim[1]));
    return walks(c, op, y, seq, (int64_t)y.dim[1] * (w.dim[1] - 1) * dilation);
}

sv_status sv_check_local_attention(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                   sv_tensor weight, const sv_local_rule *rule, const sv_sequence *seq)
{
    static const char op[] = "local_attention";
    const int heads = rule->heads;
    SV_TRY(needs(c, op, "q", q, y.dim[0], -1));
    SV_TRY(divides(c, op, "q", q.dim[1], heads, 4096));
    SV_TRY(divides(c, op, "y", y.dim[1], heads, 4096));
    SV_CHECK(c, rule->window >= 1 && rule->window <= 65536, SV_UNSUPPORTED,
             "%s: windows of %d tokens; 1 to 65536 are supported", op, rule->window);
    SV_TRY(walks(c, op, y, seq, (int64_t)rule->window * (q.dim[1] + y.dim[1]) + heads));
    SV_TRY(needs(c, op, "k", k, y.dim[0], q.dim[1]));
    SV_TRY(needs(c, op, "v", v, y.dim[0], y.dim[1]));
    return sv_is_none(weight) ? SV_OK : needs(c, op, "weight", weight, y.dim[0], 1);
}

sv_status sv_check_block_state_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                    const sv_block_states *rule, const sv_sequence *seq)
{
    static const char op[] = "block_state_scan";
    const int inner = y.dim[1], width = rule->self.dim[1];
    SV_TRY(divides(c, op, "y", inner, rule->heads, 4096));
    SV_CHECK(c, rule->states >= 1 && rule->states <= 4096 && rule->block >= 1 && rule->block <= 65536,
             SV_UNSUPPORTED, "%s: %d states and blocks of %d tokens; 1 to 4096 and 1 to 65536 are supported",
             op, rule->states, rule->block);
    SV_TRY(walks(c, op, y, seq, (int64_t)rule->states * width));
    SV_TRY(needs(c, op, "q", q, y.dim[0], inner));
    SV_TRY(needs(c, op, "k", k, y.dim[0], inner));
    SV_TRY(needs(c, op, "v", v, y.dim[0], inner));
    SV_TRY(needs(c, op, "self", rule->self, inner, width));
    SV_TRY(needs(c, op, "cross", rule->cross, inner, width));
    SV_TRY(needs(c, op, "key", rule->key, inner, width));
    SV_TRY(needs(c, op, "value", rule->value, inner, width));
    SV_TRY(needs(c, op, "out", rule->out, width, 2 * inner));
    SV_TRY(numbers(c, op, "bias", rule->bias, width));
    return numbers(c, op, "gate", rule->gate, width);
}

sv_status sv_check_deep_memory_scan(sv_ctx *c, sv_tensor y, const sv_deep_inputs *in,
                                    const sv_deep_memory *rule, const sv_sequence *seq)
{
    static const char op[] = "deep_memory_scan";
    const bool omega = rule->kind == SV_DEEP_OMEGA;
    const int heads = rule->heads;
    SV_TRY(divides(c, op, "y", y.dim[1], heads, omega ? 64 : 1024));
    const int64_t width = y.dim[1] / heads, monomials = 1 + width + width * (width + 1) / 2;
    SV_CHECK(
        c, rule->batch >= 1 && rule->batch <= 64 && (omega || (rule->hidden >= 1 && rule->hidden <= 8192)),
        SV_UNSUPPORTED, "%s: %d tokens at a time and %d hidden channels; 1 to 64 and 1 to 8192 are supported",
        op, rule->batch, rule->hidden);
    SV_TRY(walks(c, op, y, seq,
                 heads * (omega ? 2 * monomials * width + (rule->batch - 1) * (2 * width + 1)
                                : 4 * width * rule->hidden)));
    SV_TRY(needs(c, op, "q", in->q, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, op, "k", in->k, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, op, "v", in->v, y.dim[0], y.dim[1]));
    SV_TRY(needs(c, op, "theta", in->theta, y.dim[0], heads));
    SV_TRY(needs(c, op, "alpha", in->alpha, y.dim[0], heads));
    SV_TRY(needs(c, op, "eta", in->eta, y.dim[0], heads));
    return omega ? needs(c, op, "gamma", in->gamma, y.dim[0], heads) : SV_OK;
}

sv_status sv_check_camera_sample(sv_ctx *c, sv_tensor y, sv_tensor coords, sv_tensor features,
                                 sv_tensor views, const sv_grid *grid, const sv_camera_rule *rule)
{
    static const char op[] = "camera_sample";
    (void)grid;
    SV_CHECK(c, !sv_is_none(coords) && coords.dtype == SV_I32 && coords.dim[1] == 4 && coords.offsets,
             SV_BAD_SHAPE, "%s: coords need four columns and per-sample offsets", op);
    SV_CHECK(c, rule->views >= 1 && rule->views <= 16 && rule->rows >= 1 && rule->columns >= 1,
             SV_UNSUPPORTED, "%s: %d views of %d x %d features", op, rule->views, rule->rows, rule->columns);
    SV_TRY(needs(c, op, "y", y, coords.dim[0], -1));
    SV_TRY(needs(c, op, "features", features, coords.batch * rule->views * rule->rows * rule->columns,
                 y.dim[1]));
    return needs(c, op, "views", views, coords.batch * rule->views, SV_CAMERA_VIEW);
}
