/* SPDX-License-Identifier: Apache-2.0
 *
 * Every operator of the catalogue as a block: it binds with its defaults, gives the same bytes whatever the threads, streams
 * with a carried state as it runs in one pass, and stays finite over long groups.
 */
#include "support_operator.h"

#include "backbones/block.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHANNELS = 16, LENGTH = 64 };

/* One group after the other, in the order of the rows. */
typedef struct layout {
    int32_t offsets[2], *rows;
    sv_order order;
} layout;

static layout make_layout(int rows)
{
    layout l = {.offsets = {0, rows}, .rows = malloc(((size_t)rows + 1) * sizeof *l.rows)};
    ck_assert_ptr_nonnull(l.rows);
    for (int i = 0; i < rows; i++) l.rows[i] = i;
    l.order = (sv_order){.slot_row = sv_view(l.rows, SV_I32, rows, 1),
                         .row_slot = sv_view(l.rows, SV_I32, rows, 1)};
    return l;
}

static float *random_rows(test_rng *rng, int rows, int columns)
{
    float *x = malloc(((size_t)rows * (size_t)columns + 1) * sizeof *x);
    ck_assert_ptr_nonnull(x);
    rng_fill(rng, x, (size_t)rows * (size_t)columns, 1);
    return x;
}

static void run(test_operator *op, float *y, float *x, int rows, int length, const sv_operator_state *state)
{
    layout l = make_layout(rows);
    assert_ok(op->c, op->type->forward(op->c, op->self, sv_view(y, SV_F32, rows, CHANNELS),
                                       sv_view(x, SV_F32, rows, CHANNELS), &l.order, length, state));
    free(l.rows);
}

static bool in_catalogue(int i)
{
    return sv_operator_at(i)->recurrence != NULL;
}

static int operator_count(void)
{
    int count = 0;
    while (sv_operator_at(count)) count++;
    return count;
}

static test_operator open_block(int i, const char *cfg, int threads, sv_weights *weights, uint64_t seed)
{
    const operator_setting setting = {
        .name = sv_operator_at(i)->name, .cfg = cfg, .channels = CHANNELS, .layer = 1};
    test_operator op = operator_open(&setting, threads);
    operator_bind(&op, weights, seed);
    return op;
}

static void every_direction_and_norm(int i, const char *cfg)
{
    test_rng rng = {7 + (uint64_t)i};
    sv_weights *weights = sv_weights_new();
    test_operator one = open_block(i, cfg, 1, weights, 3), other = open_block(i, cfg, 3, weights, 0);
    const int rows = 3 * LENGTH;
    float *x = random_rows(&rng, rows, CHANNELS), *y = random_rows(&rng, rows, CHANNELS),
          *again = random_rows(&rng, rows, CHANNELS);
    memcpy(again, x, sizeof *x * (size_t)rows * CHANNELS);
    run(&one, y, x, rows, LENGTH, NULL);
    run(&other, again, again, rows, LENGTH, NULL); /* in place */
    ck_assert_msg(memcmp(y, again, sizeof *y * (size_t)rows * CHANNELS) == 0,
                  "%s, %s: bytes depend on the threads", one.type->name, cfg);
    double change = 0;
    for (int k = 0; k < rows * CHANNELS; k++) {
        ck_assert_msg(isfinite(y[k]), "%s, %s: value %d is %g", one.type->name, cfg, k, (double)y[k]);
        change = fmax(change, fabs((double)y[k] - (double)x[k]));
    }
    ck_assert_msg(change > 1e-4 && change < 100, "%s, %s changes its input by %g", one.type->name, cfg,
                  change);
    /* a group knows nothing of the others: the second one alone */
    run(&one, again, x + LENGTH * CHANNELS, LENGTH, LENGTH, NULL);
    ck_assert_msg(memcmp(again, y + LENGTH * CHANNELS, sizeof *y * LENGTH * CHANNELS) == 0,
                  "%s, %s: a group depends on the others", one.type->name, cfg);
    free(x), free(y), free(again);
    operator_close(&one);
    operator_close(&other);
    sv_weights_free(weights);
}

START_TEST(every_operator_runs_in_every_setting)
{
    static const char *const settings[] = {"{}", "{direction: shared, norm: post, ffn: 2}",
                                           "{direction: backward, d_conv: 1}", "{direction: alternate}",
                                           "{direction: whole}"};
    if (!in_catalogue(_i)) return;
    for (size_t k = 0; k < sizeof settings / sizeof settings[0]; k++)
        if (k != 4 || sv_operator_at(_i)->recurrence->whole > 0) every_direction_and_norm(_i, settings[k]);
}
END_TEST

/* What happens between mini-batches, blocks or periods of 16 tokens: streams of these operators are split there. */
static int split_unit(const char *name)
{
    const bool by_16 = strncmp(name, "TTT", 3) == 0 || strncmp(name, "Titans", 6) == 0 ||
                       strcmp(name, "AGaLiTe") == 0 || strcmp(name, "BlockRecurrent") == 0;
    return by_16 ? 16 : 1;
}

/* Attention, and those whose tokens see all others: no state is carried from part to part. */
static bool sees_its_group(const char *name)
{
    static const char *const names[] = {"ForgettingAttention", "RAT", "SCOUT", "JRT", "ReWKV"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

START_TEST(streaming_equals_one_pass)
{
    if (!in_catalogue(_i)) return;
    test_rng rng = {70 + (uint64_t)_i};
    const sv_operator *type = sv_operator_at(_i);
    const int unit = split_unit(type->name), groups = 2, length = 160;
    sv_weights *weights = sv_weights_new();
    test_operator op =
        open_block(_i, _i % 2 ? "{direction: backward}" : "{direction: forward}", 1, weights, 5);
    const bool backward = _i % 2 != 0;
    const int columns = sv_block_state_columns(op.self), rows = groups * length;
    if (columns == 0) {
        ck_assert_msg(sees_its_group(type->name), "%s carries no state", type->name);
        operator_close(&op);
        sv_weights_free(weights);
        return;
    }
    float *x = random_rows(&rng, rows, CHANNELS), *whole = random_rows(&rng, rows, CHANNELS),
          *parts = random_rows(&rng, rows, CHANNELS), *in = random_rows(&rng, rows, CHANNELS),
          *out = random_rows(&rng, rows, CHANNELS);
    float *state = calloc((size_t)(groups * columns), sizeof *state);
    run(&op, whole, x, rows, length, NULL);
    for (int first = 0; first < length;) {
        int count = unit * (1 + (int)(rng_u64(&rng) % (uint64_t)(60 / unit)));
        if (count > length - first) count = length - first;
        const int begin = backward ? length - first - count : first;
        for (int g = 0; g < groups; g++)
            memcpy(in + g * count * CHANNELS, x + (g * length + begin) * CHANNELS,
                   sizeof *in * (size_t)(count * CHANNELS));
        const sv_tensor row = sv_view(state, SV_F32, groups, columns);
        const sv_operator_state carried = {.in = first > 0 ? row : SV_NONE, .out = row};
        run(&op, out, in, groups * count, count, &carried);
        for (int g = 0; g < groups; g++)
            memcpy(parts + (g * length + begin) * CHANNELS, out + g * count * CHANNELS,
                   sizeof *out * (size_t)(count * CHANNELS));
        first += count;
    }
    assert_close(type->name, parts, whole, (size_t)(rows * CHANNELS), 2e-4, 2e-4);
    free(x), free(whole), free(parts), free(in), free(out), free(state);
    operator_close(&op);
    sv_weights_free(weights);
}
END_TEST

START_TEST(long_groups_stay_finite)
{
    enum { LONG = 65536 };
    if (!in_catalogue(_i)) return;
    const char *name = sv_operator_at(_i)->name;
    if (sv_operator_at(_i)->recurrence->quadratic) return;
    test_rng rng = {11};
    sv_weights *weights = sv_weights_new();
    test_operator op = open_block(_i, "{direction: forward}", 2, weights, 9);
    float *x = random_rows(&rng, LONG, CHANNELS), *y = random_rows(&rng, LONG, CHANNELS);
    const int columns = sv_block_state_columns(op.self);
    float *state = calloc((size_t)columns + 1, sizeof *state);
    const sv_operator_state carried = {.out = sv_view(state, SV_F32, 1, columns)};
    run(&op, y, x, LONG, LONG, columns > 0 ? &carried : NULL);
    for (int k = 0; k < LONG * CHANNELS; k++)
        ck_assert_msg(isfinite(y[k]), "%s: value %d is %g", name, k, (double)y[k]);
    for (int k = 0; k < columns; k++)
        ck_assert_msg(isfinite(state[k]), "%s: state %d is %g", name, k, (double)state[k]);
    free(x), free(y), free(state);
    operator_close(&op);
    sv_weights_free(weights);
}
END_TEST

START_TEST(settings_are_refused)
{
    static const struct {
        const char *name, *cfg, *text;
        sv_status status;
    } wrong[] = {
        {"GLA", "{direction: sideways}", "direction is 'sideways'", SV_BAD_INPUT},
        {"GLA", "{direction: whole}", "which this operator has no form for", SV_UNSUPPORTED},
        {"GLA", "{norm: both}", "pre and post are known", SV_BAD_INPUT},
        {"GLA", "{n_head: 3}", "a whole number of at least 1", SV_BAD_INPUT},
        {"GLA", "{n_head: 0}", "a whole number of at least 1", SV_BAD_INPUT},
        {"GLA", "{ffn: -1}", "ffn is -1", SV_UNSUPPORTED},
        {"GLA", "{d_conv: 9}", "d_conv is 9", SV_UNSUPPORTED},
        {"LMU", "{d_state: 30}", "W_h has", SV_UNSUPPORTED},
        {"LMU", "{theta: 0}", "theta is 0", SV_BAD_INPUT},
    };
    for (size_t k = 0; k < sizeof wrong / sizeof wrong[0]; k++) {
        const operator_setting setting = {.name = wrong[k].name, .cfg = wrong[k].cfg, .channels = CHANNELS};
        operator_refuses(&setting, wrong[k].status, wrong[k].text);
    }
    const operator_setting two_ways = {.name = "GLA", .cfg = "{}", .channels = CHANNELS};
    operator_refuses_state(&two_ways, "carries no state");
    const operator_setting missing = {
        .name = "SimpleGLA", .cfg = "{direction: forward}", .channels = CHANNELS};
    operator_misses_tensors(&missing, "15 missing");
}
END_TEST

START_TEST(tables_of_ports_are_sound)
{
    for (int i = 0; sv_operator_at(i); i++) {
        const sv_recurrence *type = sv_operator_at(i)->recurrence;
        if (!type) continue;
        bool block_form = false;
        ck_assert_int_le(sv_port_count(type), SV_MAX_PORTS);
        for (const sv_port *port = type->ports; port->kind != SV_PORT_END; port++)
            block_form |= port->kind == SV_PORT_RESULT && port->form == type->form;
        ck_assert_msg(block_form, "%s: the block's form is no result", sv_operator_at(i)->name);
        for (int k = 0; k < i; k++) ck_assert_str_ne(sv_operator_at(i)->name, sv_operator_at(k)->name);
    }
}
END_TEST

static const char *const identifiers[] = {
#define OPERATOR(identifier) #identifier,
#include "backbones/operators/operators.def"
#undef OPERATOR
};

/* catalogue_<identifier>.yaml spells out every default: with it and with no settings a block is the same. */
START_TEST(shipped_configurations_are_the_defaults)
{
    if (!in_catalogue(_i)) return;
    const sv_operator *type = sv_operator_at(_i);
    sv_ctx *c = test_context(1);
    sv_config *config = NULL;
    char name[96];
    snprintf(name, sizeof name, "catalogue_%s", identifiers[_i]);
    assert_ok(c, sv_config_load(c, name, NULL, 0, &config));
    const sv_node *root = sv_config_root(config);
    const char *text = NULL;
    assert_ok(c, sv_node_string(c, root, "MODEL.BACKBONE_3D.OPERATOR.NAME", &text));
    ck_assert_str_eq(text, type->name);
    sv_operator_facts spelled, plain;
    assert_ok(c, sv_operator_measure(c, type, sv_node_find(root, "MODEL.BACKBONE_3D.OPERATOR.CFG"), 64, 128,
                                     &spelled));
    assert_ok(c, sv_operator_measure(c, type, NULL, 64, 128, &plain));
    ck_assert_int_gt(plain.parameters, 0);
    ck_assert_int_eq(spelled.parameters, plain.parameters);
    ck_assert_double_gt(plain.flops, 64);
    ck_assert_double_eq(spelled.flops, plain.flops);
    const sv_node *settings = sv_node_find(root, "MODEL.BACKBONE_3D.OPERATOR.CFG");
    for (const sv_letter *letter = type->recurrence->letters; letter->rule != SV_LETTER_END; letter++)
        if (letter->key && letter->rule != SV_LETTER_SUM) {
            double value;
            assert_ok(c, sv_node_number(c, settings, letter->key, &value));
            ck_assert_double_eq(value, letter->value);
        }
    sv_config_free(config);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("catalogue");
    TCase *tables = tcase_create("tables");
    tcase_add_test(tables, tables_of_ports_are_sound);
    tcase_add_test(tables, settings_are_refused);
    suite_add_tcase(suite, tables);
    const struct {
        const char *name;
        const TTest *test;
    } loops[] = {{"settings", every_operator_runs_in_every_setting},
                 {"defaults", shipped_configurations_are_the_defaults},
                 {"streams", streaming_equals_one_pass},
                 {"long groups", long_groups_stay_finite}};
    for (size_t k = 0; k < sizeof loops / sizeof loops[0]; k++) {
        TCase *of_all = tcase_create(loops[k].name);
        tcase_add_loop_test(of_all, loops[k].test, 0, operator_count());
        tcase_set_timeout(of_all, 300);
        suite_add_tcase(suite, of_all);
    }
    return run_suite(suite, true);
}
