/* SPDX-License-Identifier: Apache-2.0
 *
 * The container and its file formats: what is written comes back, every damaged or hostile file gets a
 * sentence.
 */
#include "support.h"
#include "support_pth.h"

#include "perception/model/sha256.h"
#include "perception/model/weights.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static sv_ctx *c;
static void setup(void)
{
    c = test_context(1);
}
static void teardown(void)
{
    sv_ctx_close(c);
}

/* Parse and expect a refusal whose sentence contains 'text'. */
static void refuses(const void *data, size_t size, sv_status status, const char *text)
{
    sv_weights *w = NULL;
    assert_fails(c, sv_weights_parse(c, "x.pth", data, size, &w), status, text);
    ck_assert_ptr_null(w);
}

static void refuses_and_frees(bytes file, sv_status status, const char *text)
{
    refuses(file.data, file.size, status, text);
    free(file.data);
}

/* ---- SHA-256 ------------------------------------------------------------------------------------------- */

START_TEST(sha256_knows_the_published_examples)
{
    static const struct {
        const char *text;
        int repeat;
        const char *hash;
    } examples[] = {
        {"", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"aaaaaaaaaa", 100000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
    };
    for (size_t i = 0; i < sizeof examples / sizeof examples[0]; i++) {
        sv_sha256 hash;
        char out[SV_SHA256_TEXT];
        sv_sha256_begin(&hash);
        for (int k = 0; k < examples[i].repeat; k++)
            sv_sha256_add(&hash, examples[i].text, strlen(examples[i].text));
        sv_sha256_text(&hash, out);
        ck_assert_str_eq(out, examples[i].hash);
    }
    char out[SV_SHA256_TEXT];
    write_file(test_path("abc"), "abc", 3);
    assert_ok(c, sv_sha256_file(c, test_path("abc"), out));
    ck_assert_str_eq(out, examples[1].hash);
    assert_fails(c, sv_sha256_file(c, test_path("nothing"), out), SV_IO, "nothing cannot be opened");
}
END_TEST

/* ---- .pth ---------------------------------------------------------------------------------------------- */

static void check_small(const sv_weights *w)
{
    ck_assert_int_eq(sv_weights_count(w), 3);
    ck_assert_str_eq(sv_weights_name(w, 0), "a.bias");
    ck_assert_str_eq(sv_weights_name(w, 2), "n.num_batches_tracked");
    ck_assert_str_eq(sv_weights_kind(w), "pth");
    const sv_tensor weight = sv_weights_find(w, "a.weight"), bias = sv_weights_find(w, "a.bias");
    ck_assert(weight.ndim == 2 && weight.dim[0] == 2 && weight.dim[1] == 3 && weight.pitch == 3);
    for (int i = 0; i < 6; i++) ck_assert(sv_f32(weight)[i] == (float)i);
    ck_assert(bias.ndim == 1 && bias.dim[0] == 3);
    for (int i = 0; i < 3; i++) ck_assert(sv_f32(bias)[i] == (float)(10 + i));
    const sv_tensor tracked = sv_weights_tensor(w, 2);
    ck_assert(tracked.dtype == SV_I64 && tracked.ndim == 1 && tracked.dim[0] == 1 &&
              *(int64_t *)tracked.data == 7);
    ck_assert(sv_is_none(sv_weights_find(w, "a.Weight")));
}

START_TEST(pth_of_every_style_is_read)
{
    static const pth_options styles[] = {{.prefix = "stem"},
                                         {.plain = true, .prefix = "a b/c"},
                                         {.deflate = true},
                                         {.optimizer = true, .byteorder = "little"},
                                         {.protocol = 4, .optimizer = true},
                                         {.protocol = 5, .plain = true, .deflate = true},
                                         {.legacy = true, .optimizer = true},
                                         {.legacy = true, .plain = true, .protocol = 4}};
    const pth_options *style = &styles[_i];
    const bytes file = pth_small(style);
    sv_weights *w = NULL;
    assert_ok(c, sv_weights_parse(c, "small.pth", file.data, file.size, &w));
    check_small(w);
    ck_assert_str_eq(sv_weights_path(w), "small.pth");
    if (style->plain) {
        ck_assert_int_eq(sv_weights_meta_count(w), 0);
    } else {
        ck_assert_str_eq(sv_weights_meta(w, "epoch"), "80");
        ck_assert_str_eq(sv_weights_meta(w, "iteration"), "74240");
        ck_assert_str_eq(sv_weights_meta(w, "trained_with"), "pcdet+0.6.0");
    }
    sv_weights_free(w);
    /* and as a file */
    write_file(test_path("small.pth"), file.data, file.size);
    assert_ok(c, sv_weights_open(c, test_path("small.pth"), &w));
    check_small(w);
    sv_weights_free(w);
    free(file.data);
}
END_TEST

START_TEST(pth_number_types_are_widened)
{
    static const double f64[2] = {0.1, -2};
    static const uint16_t f16[8] = {0x3c00, 0xc000, 0x0001, 0x8001, 0x7bff, 0x7c00, 0x03ff, 0x0400};
    static const uint16_t bf16[2] = {0x3f80, 0xc049};
    static const int32_t i32[2] = {-5, 7};
    static const int16_t i16[2] = {-300, 300};
    static const int8_t i8[2] = {-1, 2};
    static const uint8_t u8[2] = {255, 1}, flag[2] = {1, 0};
    const struct {
        const char *type;
        const void *data;
        int size, count;
        sv_dtype dtype;
        double expected[8];
    } kinds[] = {
        {"DoubleStorage", f64, 8, 2, SV_F32, {(double)0.1f, -2}},
        {"HalfStorage",
         f16,
         2,
         8,
         SV_F32,
         {1, -2, 0x1p-24, -0x1p-24, 65504, (double)INFINITY, 1023 * 0x1p-24, 0x1p-14}},
        {"BFloat16Storage", bf16, 2, 2, SV_F32, {1, -3.140625}},
        {"IntStorage", i32, 4, 2, SV_I32, {-5, 7}},
        {"ShortStorage", i16, 2, 2, SV_I32, {-300, 300}},
        {"CharStorage", i8, 1, 2, SV_I32, {-1, 2}},
        {"ByteStorage", u8, 1, 2, SV_I32, {255, 1}},
        {"BoolStorage", flag, 1, 2, SV_I32, {1, 0}},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const pth_tensor t = {.name = "t",
                              .type = kinds[i].type,
                              .key = "0",
                              .data = kinds[i].data,
                              .bytes = (size_t)(kinds[i].size * kinds[i].count),
                              .numbers = kinds[i].count,
                              .ndim = 1,
                              .size = {kinds[i].count},
                              .stride = {1}};
        const bytes file = pth_checkpoint(&t, 1, &(pth_options){.plain = true});
        sv_weights *w = NULL;
        assert_ok(c, sv_weights_parse(c, "x.pth", file.data, file.size, &w));
        const sv_tensor found = sv_weights_find(w, "t");
        ck_assert_int_eq(found.dtype, kinds[i].dtype);
        for (int k = 0; k < kinds[i].count; k++) {
            const double value = found.dtype == SV_F32 ? (double)sv_f32(found)[k] : (double)sv_i32(found)[k];
            ck_assert_msg(value == kinds[i].expected[k], "%s %d: %g", kinds[i].type, k, value);
        }
        sv_weights_free(w);
        free(file.data);
    }
}
END_TEST

/* A tensor over a storage of 24 numbers 0..23, alone in a state dict. */
static bytes with_view(int64_t offset, int ndim, const int64_t *size, const int64_t *stride)
{
    static float numbers[24];
    for (int i = 0; i < 24; i++) numbers[i] = (float)i;
    pth_tensor t = {.name = "t",
                    .type = "FloatStorage",
                    .key = "0",
                    .data = numbers,
                    .bytes = sizeof numbers,
                    .numbers = 24,
                    .offset = offset,
                    .ndim = ndim};
    memcpy(t.size, size, (size_t)ndim * sizeof *size);
    memcpy(t.stride, stride, (size_t)ndim * sizeof *stride);
    return pth_checkpoint(&t, 1, &(pth_options){0});
}

START_TEST(pth_views_are_made_dense)
{
    static const struct {
        int64_t offset;
        int ndim;
        int64_t size[4], stride[4];
    } views[] = {
        {0, 2, {4, 6}, {6, 1}},  {0, 2, {6, 4}, {1, 6}},
        {3, 2, {2, 3}, {12, 2}}, {0, 3, {2, 3, 4}, {1, 2, 6}},
        {23, 1, {1}, {7}},       {0, 4, {2, 1, 3, 4}, {12, INT64_MAX, 4, 1}},
        {1, 1, {8}, {3 - 1}},    {0, 4, {1, 1, 2, 2}, {0, -5, 5, 1}},
        {7, 0, {0}, {0}},
    };
    for (size_t n = 0; n < sizeof views / sizeof views[0]; n++) {
        const bytes file = with_view(views[n].offset, views[n].ndim, views[n].size, views[n].stride);
        sv_weights *w = NULL;
        assert_ok(c, sv_weights_parse(c, "x.pth", file.data, file.size, &w));
        const sv_tensor t = sv_weights_find(w, "t");
        const int64_t total = (int64_t)t.dim[0] * t.pitch;
        for (int64_t i = 0; i < total; i++) {
            int64_t rest = i, from = views[n].offset;
            for (int k = views[n].ndim; k-- > 0;) {
                if (views[n].size[k] > 1) from += rest % views[n].size[k] * views[n].stride[k];
                rest /= views[n].size[k];
            }
            ck_assert_msg(sv_f32(t)[i] == (float)from, "view %zu, element %lld", n, (long long)i);
        }
        sv_weights_free(w);
        free(file.data);
    }
}
END_TEST

START_TEST(pth_bad_views_are_refused)
{
    static const struct {
        int64_t offset;
        int ndim;
        int64_t size[6], stride[6];
        const char *text;
    } views[] = {
        {1, 2, {4, 6}, {6, 1}, "beyond its storage"},
        {-1, 1, {2}, {1}, "beyond its storage"},
        {24, 1, {1}, {1}, "beyond its storage"},
        {INT64_MAX, 1, {2}, {1}, "beyond its storage"},
        {0, 1, {2}, {INT64_MAX}, "beyond its storage"},
        {0, 2, {2, 2}, {INT64_MAX, 1}, "beyond its storage"},
        {0, 1, {25}, {1}, "beyond its storage"},
        {23, 1, {4}, {-1}, "more than once or backwards"},
        {0, 2, {1000, 1000}, {0, 0}, "more than once or backwards"},
        {0, 2, {4, 6}, {1, 1}, "more than once or backwards"},
        {0, 2, {4, 6}, {5, 1}, "more than once or backwards"},
        {0, 1, {-3}, {1}, "impossible sizes"},
        {0, 3, {1 << 20, 1 << 20, 1 << 20}, {0, 0, 0}, "impossible sizes"},
        {0, 1, {(int64_t)1 << 40}, {1}, "impossible sizes"},
        {0, 3, {0, INT32_MAX, INT32_MAX}, {1, 1, 1}, "impossible sizes"},
        {0, 6, {1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1}, "6 dimensions"},
    };
    for (size_t n = 0; n < sizeof views / sizeof views[0]; n++)
        refuses_and_frees(with_view(views[n].offset, views[n].ndim, views[n].size, views[n].stride),
                          views[n].ndim > 5 ? SV_UNSUPPORTED : SV_BAD_INPUT, views[n].text);
}
END_TEST

START_TEST(pth_storages_must_fit)
{
    static const float numbers[4] = {1, 2, 3, 4};
    pth_tensor t = {.name = "t",
                    .type = "FloatStorage",
                    .key = "0",
                    .data = numbers,
                    .bytes = 16,
                    .numbers = 4,
                    .ndim = 1,
                    .size = {4},
                    .stride = {1}};
    const pth_options plain = {.plain = true};
    t.numbers = 5;
    refuses_and_frees(pth_checkpoint(&t, 1, &plain), SV_BAD_INPUT,
                      "should be 5 numbers of 4 bytes, but storage '0' has 16");
    t.numbers = (int64_t)1 << 62;
    refuses_and_frees(pth_checkpoint(&t, 1, &plain), SV_BAD_INPUT, "should be 4611686018427387904 numbers");
    t.numbers = -1;
    refuses_and_frees(pth_checkpoint(&t, 1, &plain), SV_BAD_INPUT, "description of a storage");
    t.numbers = 4;
    t.data = NULL;
    refuses_and_frees(pth_checkpoint(&t, 1, &plain), SV_BAD_INPUT, "(storage '0') are missing");
    t.data = numbers;
    t.key = "../../x";
    t.data = NULL;
    refuses_and_frees(pth_checkpoint(&t, 1, &plain), SV_BAD_INPUT, "(storage '../../x') are missing");
    t.key = "";
    refuses_and_frees(pth_checkpoint(&t, 1, &plain), SV_BAD_INPUT, "unusable name");
    t.key = "0";
    t.type = "ComplexFloatStorage";
    refuses_and_frees(pth_checkpoint(&t, 1, &plain), SV_BAD_INPUT, "'torch.ComplexFloatStorage'");
}
END_TEST

START_TEST(pth_may_share_a_storage_but_not_multiply_it)
{
    static float numbers[1024];
    for (int i = 0; i < 1024; i++) numbers[i] = (float)i;
    pth_tensor tensors[64];
    char names[64][8];
    for (int i = 0; i < 64; i++) {
        snprintf(names[i], sizeof names[i], "t%d", i);
        tensors[i] = (pth_tensor){.name = names[i],
                                  .type = "FloatStorage",
                                  .key = "0",
                                  .data = i == 0 ? numbers : NULL,
                                  .bytes = sizeof numbers,
                                  .numbers = 1024,
                                  .ndim = 1,
                                  .size = {1024},
                                  .stride = {1}};
    }
    const bytes file = pth_checkpoint(tensors, 2, &(pth_options){.plain = true});
    sv_weights *w = NULL;
    assert_ok(c, sv_weights_parse(c, "x.pth", file.data, file.size, &w));
    ck_assert(sv_f32(sv_weights_find(w, "t1"))[1023] == 1023);
    sv_weights_free(w);
    free(file.data);
    refuses_and_frees(pth_checkpoint(tensors, 64, &(pth_options){.plain = true}), SV_BAD_INPUT,
                      "more than 4 times over");
    tensors[1].name = "t0";
    refuses_and_frees(pth_checkpoint(tensors, 2, &(pth_options){.plain = true}), SV_BAD_INPUT,
                      "'t0' is there twice");
    tensors[0].name = "evil\x1b[2J";
    refuses_and_frees(pth_checkpoint(tensors, 1, &(pth_options){.plain = true}), SV_BAD_INPUT,
                      "unusable name 'evil?[2J'");
}
END_TEST

/* A pickle given as text; "\x80\x02" is put before it. */
static bytes pickled(const char *text, size_t size)
{
    bytes p = {0};
    put(&p, "\x80\x02", 2);
    put(&p, text, size);
    const bytes file = pth_around(&p);
    free(p.data);
    return file;
}

START_TEST(pickles_that_do_more_than_hold_data_are_refused)
{
#define PICKLE(text, status, sentence)                                                                       \
    {                                                                                                        \
        text, sizeof text - 1, status, sentence                                                              \
    }
    static const struct {
        const char *text;
        size_t size;
        sv_status status;
        const char *sentence;
    } cases[] = {
        PICKLE("cposix\nsystem\n(X\x02\0\0\0lstR.", SV_BAD_INPUT,
               "'posix.system', which has no place among weights"),
        PICKLE("cposix\nsystem\n(X\x02\0\0\0lstR.", SV_BAD_INPUT, "nothing was executed"),
        PICKLE("cbuiltins\neval\nX\x01\0\0\0001\x85R.", SV_BAD_INPUT, "'builtins.eval'"),
        PICKLE("X\x02\0\0\0osX\x06\0\0\0system\x93.", SV_BAD_INPUT, "'os.system'"),
        PICKLE("ctorch\nload\n.", SV_BAD_INPUT, "'torch.load'"),
        PICKLE("ctorch._utils\n_rebuild_tensor_v3\n.", SV_BAD_INPUT, "'torch._utils._rebuild_tensor_v3'"),
        PICKLE("c\x1b[2J\nx\n.", SV_BAD_INPUT, "'?[2J.x'"),
        PICKLE("(iposix\nsystem\n.", SV_BAD_INPUT, "(INST) at byte 3"),
        PICKLE("cos\n", SV_BAD_INPUT, "the name of a global does not end"),
        PICKLE("ccollections\nOrderedDict\n)\x81.", SV_BAD_INPUT, "(NEWOBJ)"),
        PICKLE("\x82\x01.", SV_BAD_INPUT, "(EXT1)"),
        PICKLE("\xff.", SV_BAD_INPUT, "0xff (an unknown one)"),
        PICKLE("P1\n.", SV_BAD_INPUT, "(PERSID)"),
        PICKLE("", SV_BAD_INPUT, "ends in the middle"),
        PICKLE(".", SV_BAD_INPUT, "a value is missing"),
        PICKLE("}", SV_BAD_INPUT, "ends in the middle"),
        PICKLE("}}.", SV_BAD_INPUT, "values are left"),
        PICKLE("(.", SV_BAD_INPUT, "a value is missing"),
        PICKLE("t.", SV_BAD_INPUT, "a MARK is missing"),
        PICKLE("u.", SV_BAD_INPUT, "a MARK is missing"),
        PICKLE("(u.", SV_BAD_INPUT, "no container"),
        PICKLE("](K\1K\1u.", SV_BAD_INPUT, "something else than a container"),
        PICKLE("}(K\1u.", SV_BAD_INPUT, "a key without a value"),
        PICKLE("}K\1s.", SV_BAD_INPUT, "no container"),
        PICKLE("\x87.", SV_BAD_INPUT, "a value is missing"),
        PICKLE("K\1(\x86.", SV_BAD_INPUT, "a value is missing"),
        PICKLE("h\0.", SV_BAD_INPUT, "memo entry that was never made"),
        PICKLE("j\xff\xff\xff\xff.", SV_BAD_INPUT, "memo entry that was never made"),
        PICKLE("}r\xff\xff\xff\xff.", SV_BAD_INPUT, "memo entries"),
        PICKLE("q\0.", SV_BAD_INPUT, "nothing to memorise"),
        PICKLE("X\xff\xff\xff\xff.", SV_BAD_INPUT, "ends in the middle"),
        PICKLE("\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", SV_BAD_INPUT, "ends in the middle"),
        PICKLE("\x8b\xff\xff\xff\x7f.", SV_BAD_INPUT, "ends in the middle"),
        PICKLE("K\1)R.", SV_BAD_INPUT, "names no function"),
        PICKLE("ctorch\nFloatStorage\n)R.", SV_BAD_INPUT, "not a function is called"),
        PICKLE("ccollections\nOrderedDict\nK\1\x85R.", SV_BAD_INPUT, "OrderedDict is made from values"),
        PICKLE("ctorch._utils\n_rebuild_tensor_v2\n)R.", SV_BAD_INPUT, "six or seven"),
        PICKLE("ctorch._utils\n_rebuild_parameter\nK\1\x85R.", SV_BAD_INPUT, "not made from a tensor"),
        PICKLE("K\1Q.", SV_BAD_INPUT, "not described by five or six"),
        PICKLE("K\1}b.", SV_BAD_INPUT, "attributes are set on a plain value"),
        PICKLE("K\1.", SV_BAD_INPUT, "holds an integer instead of a dictionary"),
        PICKLE("}.", SV_BAD_INPUT, "empty model_state"),
        PICKLE("}X\1\0\0\0aK\1s.", SV_BAD_INPUT, "its keys are: a"),
        PICKLE("}X\x0b\0\0\0model_state]s.", SV_BAD_INPUT, "model_state is a list"),
        /* cycles: a dictionary that is its own model_state, a list within itself */
        PICKLE("}q\0X\x0b\0\0\0model_stateh\0s.", SV_BAD_INPUT,
               "'model_state' is a dictionary instead of a tensor"),
        PICKLE("}X\x0b\0\0\0model_state}X\1\0\0\0a]q\0h\0ass.", SV_BAD_INPUT,
               "'a' is a list instead of a tensor"),
        PICKLE("}X\x0b\0\0\0model_state}K\1Nss.", SV_BAD_INPUT, "is an integer instead of text"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuses_and_frees(pickled(cases[i].text, cases[i].size), cases[i].status, cases[i].sentence);
    bytes p = {0};
    put(&p, "\x80\x01}.", 4);
    refuses_and_frees(pth_around(&p), SV_UNSUPPORTED, "not of protocol 2 to 5");
    free(p.data);
}
END_TEST

START_TEST(pickles_are_bounded)
{
    /* A million nested lists, each in the next; five million values; a large stack. */
    bytes p = {0};
    put_text(&p, "\x80\x02}");
    for (int i = 0; i < 1000000; i++) put_text(&p, "]");
    for (int i = 0; i < 1000000 - 1; i++) put_text(&p, "a");
    put_text(&p, "0");
    refuses_and_frees(pth_around(&p), SV_BAD_INPUT, "(POP)");
    p.size = 0;
    put_text(&p, "\x80\x02");
    for (int i = 0; i < (1 << 20) + 1; i++) put_text(&p, "N");
    refuses_and_frees(pth_around(&p), SV_BAD_INPUT, "values on its stack");
    p.size = 0;
    put_text(&p, "\x80\x02");
    for (int i = 0; i < (1 << 21) + 1; i++) put_text(&p, ")\x85");
    refuses_and_frees(pth_around(&p), SV_BAD_INPUT, "more than");
    /* One tuple of many sizes, used again and again: refused at the first use, so the work stays linear. */
    p.size = 0;
    put_text(&p, "\x80\x02(");
    for (int i = 0; i < 100000; i++) put_text(&p, "K\1");
    put_text(&p, "tq\1");
    for (int i = 0; i < 1000; i++) {
        put_text(&p, "ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle_text(&p, "storage");
        pickle_global(&p, "torch", "FloatStorage");
        put_text(&p, "X\1");
        put_le(&p, 0, 3);
        put_text(&p, "0h\1K\1tQK\1h\1h\1\x89NtR");
    }
    refuses_and_frees(pth_around(&p), SV_BAD_INPUT, "description of a storage");
    free(p.data);
}
END_TEST

START_TEST(pth_cut_off_anywhere_is_refused)
{
    const bytes file = pth_small(&(pth_options){.optimizer = true, .byteorder = "little", .legacy = _i == 1});
    for (size_t size = 0; size < file.size; size++) {
        /* An exact copy, so that a sanitizer sees every byte read too far. */
        uint8_t *cut = malloc(size + 1);
        ck_assert_ptr_nonnull(cut);
        memcpy(cut, file.data, size);
        sv_weights *w = NULL;
        const sv_status status = sv_weights_parse(c, "cut.pth", cut, size, &w);
        /* The first bytes of the old format might begin any pickle. */
        const bool named = status == SV_BAD_INPUT || (_i == 1 && size < 14 && status == SV_UNSUPPORTED);
        ck_assert_msg(named && sv_error_message(c)[0], "%zu bytes: %s", size, sv_status_text(status));
        ck_assert_ptr_null(w);
        sv_error_clear(c);
        free(cut);
    }
    refuses(file.data, 40, SV_BAD_INPUT, _i == 0 ? "cut off" : "ends in the middle");
    refuses(file.data, file.size - 1, SV_BAD_INPUT, "cut off");
    free(file.data);
}
END_TEST

START_TEST(old_format_is_checked)
{
    static const float numbers[4] = {1, 2, 3, 4};
    pth_tensor t[2] = {{.name = "t",
                        .type = "FloatStorage",
                        .key = "94385937",
                        .data = numbers,
                        .bytes = 16,
                        .numbers = 4,
                        .ndim = 1,
                        .size = {4},
                        .stride = {1}}};
    t[1] = t[0];
    t[1].name = "u";
    t[1].data = NULL;
    const pth_options old = {.legacy = true};
    const bytes file = pth_checkpoint(t, 2, &old);
    sv_weights *w = NULL;
    assert_ok(c, sv_weights_parse(c, "x.pth", file.data, file.size, &w));
    ck_assert(sv_f32(sv_weights_find(w, "u"))[3] == 4 && sv_weights_count(w) == 2);
    sv_weights_free(w);
    /* It has no checksums: a changed byte gives other numbers or a refusal, but nothing worse. */
    for (size_t at = 0; at < file.size; at++) {
        file.data[at] ^= 0x11;
        (void)sv_weights_parse(c, "x.pth", file.data, file.size, &w);
        sv_weights_free(w);
        sv_error_clear(c);
        file.data[at] ^= 0x11;
    }
    free(file.data);

    t[1].numbers = 3;
    t[1].size[0] = 3;
    refuses_and_frees(pth_checkpoint(t, 2, &old), SV_BAD_INPUT, "'94385937' is described in two ways");
    t[1].key = "7";
    refuses_and_frees(pth_checkpoint(t, 2, &old), SV_BAD_INPUT, "tensor 'u' (storage '7') are missing");
    t[1] = t[0];
    t[1].name = "u";
    refuses_and_frees(pth_checkpoint(t, 2, &old), SV_BAD_INPUT, "belongs to no tensor or is there twice");
    t[0].bytes = 12;
    refuses_and_frees(pth_checkpoint(t, 1, &old), SV_BAD_INPUT, "cut off in storage '94385937'");
    t[0].bytes = 16;
    bytes longer = pth_checkpoint(t, 1, &old);
    put_text(&longer, "more");
    refuses_and_frees(longer, SV_BAD_INPUT, "4 bytes after its last storage");
    refuses_and_frees(pth_checkpoint(t, 1, &(pth_options){.legacy = true, .byteorder = "big"}),
                      SV_UNSUPPORTED, "not saved on a little-endian machine");
    bytes evil = {0};
    put(&evil, "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", 21);
    put_text(&evil, "\x80\x02}X");
    put_le(&evil, 13, 4);
    put_text(&evil, "little_endian\x88s.\x80\x02");
    pickle_global(&evil, "posix", "system");
    put_text(&evil, ".");
    refuses_and_frees(evil, SV_BAD_INPUT, "'posix.system'");
}
END_TEST

START_TEST(pth_with_any_byte_changed_is_refused_or_whole)
{
    const pth_options style = {.deflate = _i == 1};
    const bytes file = pth_small(&style);
    int accepted = 0;
    for (size_t at = 0; at < file.size; at++) {
        for (int bit = 0; bit < 8; bit += 3) {
            file.data[at] ^= (uint8_t)(1 << bit);
            sv_weights *w = NULL;
            if (sv_weights_parse(c, "x.pth", file.data, file.size, &w) == SV_OK) {
                check_small(w); /* unused fields of the archive: dates, versions, other members */
                accepted++;
            } else {
                ck_assert_str_ne(sv_error_message(c), "");
            }
            sv_weights_free(w);
            sv_error_clear(c);
            file.data[at] ^= (uint8_t)(1 << bit);
        }
    }
    ck_assert_int_gt(accepted, 0);
    free(file.data);
}
END_TEST

/* An archive with one member besides the pickle of an empty state. */
static bytes with_member(const zip_member *member, bool zip64)
{
    zip_writer zip = {0};
    zip_put(&zip, &(zip_member){.name = "a/data.pkl", .data = "\x80\x02}.", .size = 4});
    zip_put(&zip, member);
    return zip_end(&zip, zip64);
}

START_TEST(zip_bombs_and_liars_are_refused)
{
    static uint8_t zeros[4 << 20];
    refuses_and_frees(
        with_member(&(zip_member){.name = "a/data/0", .data = zeros, .size = sizeof zeros, .deflate = true},
                    false),
        SV_BAD_INPUT, "a zip bomb");
    refuses_and_frees(
        with_member(
            &(zip_member){
                .name = "a/data/0", .data = zeros, .size = 9000, .deflate = true, .claimed = 0xfffffffe},
            false),
        SV_BAD_INPUT, "a zip bomb");
    refuses_and_frees(
        with_member(&(zip_member){.name = "a/data/0", .data = zeros, .size = 90, .claimed = 91}, true),
        SV_BAD_INPUT, "has two sizes");
    refuses_and_frees(with_member(&(zip_member){.name = "a/data.pkl", .data = zeros, .size = 9}, false),
                      SV_BAD_INPUT, "'a/data.pkl' is there twice");
    refuses_and_frees(with_member(&(zip_member){.name = "b/data.pkl", .data = zeros, .size = 9}, false),
                      SV_BAD_INPUT, "it is not one checkpoint");
    refuses_and_frees(with_member(&(zip_member){.name = "a/\x1b]", .data = zeros, .size = 9}, false),
                      SV_BAD_INPUT, "unusable name 'a/?]'");
    refuses_and_frees(with_member(&(zip_member){.name = "a/byteorder", .data = "big", .size = 3}, false),
                      SV_UNSUPPORTED, "byte order 'big'");
    refuses_and_frees(with_member(&(zip_member){.name = "a/constants.pkl", .data = "big", .size = 3}, false),
                      SV_UNSUPPORTED, "TorchScript");
    /* A pickle with a wrong checksum, one that unpacks to more and one that unpacks to less than it says. */
    static const int kinds = 3;
    for (int i = 0; i < kinds; i++) {
        zip_writer zip = {0};
        zip_put(&zip, &(zip_member){.name = "a/data.pkl",
                                    .data = zeros,
                                    .size = 100,
                                    .deflate = i > 0,
                                    .crc_error = i == 0,
                                    .claimed = i == 1   ? 99
                                               : i == 2 ? 101
                                                        : 0});
        refuses_and_frees(zip_end(&zip, i == 0), SV_BAD_INPUT,
                          i == 0 ? "instead of" : "damaged or not as long");
    }
    zip_writer zip = {0};
    refuses_and_frees(zip_end(&zip, false), SV_BAD_INPUT, "without a member data.pkl");
}
END_TEST

START_TEST(zip_members_may_not_overlap)
{
    /* Two directory entries on one member: the offset of the second is changed to that of the first. */
    zip_writer zip = {0};
    zip_put(&zip, &(zip_member){.name = "a/data/0", .data = "12345678", .size = 8});
    zip_put(&zip, &(zip_member){.name = "a/data/0", .data = "12345678", .size = 8});
    memset(zip.directory.data + zip.directory.size / 2 + 42, 0, 4);
    refuses_and_frees(zip_end(&zip, false), SV_BAD_INPUT, "overlap");
    /* The directory points into itself, and beyond. */
    for (int i = 0; i < 2; i++) {
        zip_put(&zip, &(zip_member){.name = "a/data.pkl", .data = "\x80\x02}.", .size = 4});
        const size_t at = i == 0 ? zip.out.size - 4 : 0x7fffffff;
        for (int k = 0; k < 4; k++) zip.directory.data[42 + k] = (uint8_t)(at >> 8 * k);
        refuses_and_frees(zip_end(&zip, false), SV_BAD_INPUT,
                          i == 0 ? "beyond the archive's data" : "beyond the archive's data");
    }
}
END_TEST

START_TEST(byteorder_and_other_formats_are_named)
{
    refuses_and_frees(pth_small(&(pth_options){.byteorder = "big"}), SV_UNSUPPORTED, "byte order 'big'");
    refuses("", 0, SV_BAD_INPUT, "x.pth is empty");
    refuses("This is a note of forty bytes, no model.", 40, SV_BAD_INPUT, "none of the formats");
    refuses("\x80\x02}.", 4, SV_UNSUPPORTED, "bare pickle");
    char tar[512] = "pickle";
    memcpy(tar + 257, "ustar", 5);
    refuses(tar, sizeof tar, SV_UNSUPPORTED, "tar archive");
    refuses("\x1f\x8b\x08\0\0\0\0\0\0", 9, SV_UNSUPPORTED, "unpack it first");
    refuses("version https://git-lfs.github.com/spec/v1\n", 43, SV_BAD_INPUT, "git lfs pull");
    refuses("\n<!DOCTYPE html><html>", 22, SV_BAD_INPUT, "web page");
    sv_weights *w = NULL;
    assert_fails(c, sv_weights_open(c, test_path("absent.pth"), &w), SV_IO, "No such file");
    assert_fails(c, sv_weights_open(c, test_folder(), &w), SV_IO, "a folder");
    assert_fails(c, sv_weights_open(c, "/dev/zero", &w), SV_IO, "a device or pipe");
    ck_assert_int_eq(mkfifo(test_path("pipe"), 0600), 0);
    assert_fails(c, sv_weights_open(c, test_path("pipe"), &w), SV_IO, "a device or pipe");
}
END_TEST

/* ---- model files --------------------------------------------------------------------------------------- */

/* Tensors of all kept kinds and of one to five dimensions, and metadata with everything that needs escaping.
 */
static sv_weights *sample(void)
{
    sv_weights *w = sv_weights_new();
    ck_assert_ptr_nonnull(w);
    test_rng rng = {5};
    float numbers[120];
    rng_fill(&rng, numbers, 120, 1);
    int64_t counters[3] = {INT64_MIN, -1, INT64_MAX};
    int32_t small[2] = {-7, 8};
    const sv_tensor five = {.data = numbers, .dim = {2, 3, 4, 5, 1}, .ndim = 5, .pitch = 60, .dtype = SV_F32};
    const sv_tensor one = {.data = counters, .dim = {3}, .ndim = 1, .pitch = 1, .dtype = SV_I64};
    const sv_tensor empty = {.data = numbers, .dim = {0, 4}, .ndim = 2, .pitch = 4, .dtype = SV_F32};
    assert_ok(c, sv_weights_add(c, w, "z.five", five));
    assert_ok(c, sv_weights_add(c, w, "b.counters", one));
    assert_ok(c, sv_weights_add(c, w, "a.matrix", sv_view(numbers, SV_F32, 7, 11)));
    assert_ok(c, sv_weights_add(c, w, "m.small", sv_view(small, SV_I32, 1, 2)));
    assert_ok(c, sv_weights_add(c, w, "empty", empty));
    for (int i = 0; i < 40; i++) {
        char name[16];
        snprintf(name, sizeof name, "many.%d", i);
        assert_ok(c, sv_weights_add(c, w, name, sv_view(numbers + i, SV_F32, 1, 3)));
    }
    assert_ok(c, sv_weights_set_meta(c, w, "config",
                                     "MODEL:\n  NAME: \"x\\y\"\t# gr\xc3\xb6\xc3\x9f"
                                     "er\n"));
    assert_ok(c, sv_weights_set_meta(c, w, "classes", "Car,Pedestrian"));
    assert_ok(c, sv_weights_set_meta(c, w, "classes", "Car,Pedestrian,Cyclist"));
    assert_ok(c, sv_weights_set_meta(c, w, "license", ""));
    return w;
}

static void check_equal(const sv_weights *a, const sv_weights *b)
{
    ck_assert_int_eq(sv_weights_count(a), sv_weights_count(b));
    for (int i = 0; i < sv_weights_count(a); i++) {
        const sv_tensor x = sv_weights_tensor(a, i), y = sv_weights_tensor(b, i);
        ck_assert_str_eq(sv_weights_name(a, i), sv_weights_name(b, i));
        ck_assert(x.ndim == y.ndim && x.dtype == y.dtype && x.pitch == y.pitch &&
                  memcmp(x.dim, y.dim, sizeof x.dim) == 0);
        ck_assert_int_eq(
            memcmp(x.data, y.data, (size_t)x.dim[0] * (size_t)x.pitch * sv_dtype_bytes((sv_dtype)x.dtype)),
            0);
    }
    for (int i = 0; i < sv_weights_meta_count(a); i++) {
        const char *key = sv_weights_meta_key(a, i);
        ck_assert_ptr_nonnull(sv_weights_meta(b, key));
        ck_assert_str_eq(sv_weights_meta(a, key), sv_weights_meta(b, key));
    }
}

static const char *const extensions[] = {"h5", "safetensors", "hdf5"};
static const char *const kinds[] = {"hdf5", "safetensors", "hdf5"};

static char *named(const char *stem, int i)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", stem, extensions[i]);
    return strdup(test_path(name));
}

START_TEST(model_files_come_back_and_are_the_same_bytes)
{
    sv_weights *w = sample(), *read = NULL, *parsed = NULL, *again = NULL;
    char *first = named("first", _i), *second = named("second", _i);
    assert_ok(c, sv_weights_write(c, w, first));
    assert_ok(c, sv_weights_open(c, first, &read));
    ck_assert_str_eq(sv_weights_kind(read), kinds[_i]);
    check_equal(w, read);
    ck_assert_str_eq(sv_weights_meta(read, "format"), "savanna-model");
    ck_assert_str_eq(sv_weights_meta(read, "format_version"), "1");
    ck_assert_int_eq(sv_weights_meta_count(read), sv_weights_meta_count(w) + 3);
    /* What was read and written again, over an existing file, is the same file. */
    write_file(second, "something", 9);
    assert_ok(c, sv_weights_write(c, read, second));
    size_t n = 0, m = 0;
    uint8_t *a = read_file(first, &n), *b = read_file(second, &m);
    ck_assert_uint_eq(n, m);
    ck_assert_int_eq(memcmp(a, b, n), 0);
    assert_ok(c, sv_weights_parse(c, "memory", a, n, &parsed));
    check_equal(w, parsed);
    /* and through the other format */
    char *other = named("other", 1 - _i % 2);
    assert_ok(c, sv_weights_write(c, parsed, other));
    assert_ok(c, sv_weights_open(c, other, &again));
    check_equal(w, again);
    ck_assert_str_eq(sv_weights_meta(again, "checksum"), sv_weights_meta(read, "checksum"));
    /* no temporary file is left */
    DIR *folder = opendir(test_folder());
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder))
        ck_assert_ptr_null(strstr(entry->d_name, ".part"));
    closedir(folder);
    free(a), free(b), free(first), free(second), free(other);
    sv_weights_free(w), sv_weights_free(read), sv_weights_free(parsed), sv_weights_free(again);
}
END_TEST

START_TEST(model_files_cut_off_or_changed_are_refused)
{
    sv_weights *w = sample();
    char *path = named("whole", _i);
    assert_ok(c, sv_weights_write(c, w, path));
    size_t n = 0;
    uint8_t *file = read_file(path, &n);
    for (size_t size = 0; size < n; size += size < 600 ? 1 : 97) {
        sv_weights *cut = NULL;
        const sv_status status = sv_weights_parse(c, "cut", file, size, &cut);
        ck_assert_msg(status == SV_BAD_INPUT && sv_error_message(c)[0], "%zu bytes: %s", size,
                      sv_status_text(status));
        sv_error_clear(c);
    }
    /* Each changed byte is found by a check of the format or by the checksum, unless it says nothing. */
    int accepted = 0, tried = 0;
    for (size_t at = 0; at < n; at += at < 600 ? 1 : 41, tried++) {
        file[at] ^= 0x10;
        sv_weights *changed = NULL;
        if (sv_weights_parse(c, "changed", file, n, &changed) == SV_OK) {
            check_equal(w, changed);
            accepted++;
        }
        sv_weights_free(changed);
        sv_error_clear(c);
        file[at] ^= 0x10;
    }
    ck_assert_int_lt(accepted, tried / 2); /* the word "format", space between the blocks of HDF5 */
    /* The flags of the root's header decide how long its first part is: all combinations. */
    for (int flags = 0; _i == 0 && flags < 256; flags++) {
        const uint8_t before = file[53];
        file[53] = (uint8_t)flags;
        if (flags != before) refuses(file, n, SV_BAD_INPUT, "damaged");
        file[53] = before;
    }
    free(file), free(path);
    sv_weights_free(w);
}
END_TEST

START_TEST(writing_says_what_is_wrong)
{
    sv_weights *w = sample();
    assert_fails(c, sv_weights_write(c, w, test_path("x.pth")), SV_USAGE, ".safetensors");
    assert_fails(c, sv_weights_write(c, w, test_path("h5")), SV_USAGE, ".safetensors");
    assert_fails(c, sv_weights_write(c, w, test_path("no/such/x.h5")), SV_IO, "x.h5 cannot be written");
    assert_fails(c, sv_weights_write(c, w, test_path("no/such/x.safetensors")), SV_IO, "No such file");
    ck_assert_int_eq(mkdir(test_path("x.h5"), 0700), 0);
    assert_fails(c, sv_weights_write(c, w, test_path("x.h5")), SV_IO, "cannot be put in place");
    float one = 1;
    assert_fails(c, sv_weights_add(c, w, "z.five", sv_view(&one, SV_F32, 1, 1)), SV_BAD_INPUT,
                 "'z.five' is there twice");
    assert_fails(c, sv_weights_add(c, w, "", sv_view(&one, SV_F32, 1, 1)), SV_BAD_INPUT, "unusable name");
    assert_fails(c, sv_weights_add(c, w, "a b", sv_view(&one, SV_F32, 1, 1)), SV_BAD_INPUT, "unusable name");
    assert_fails(c, sv_weights_add(c, w, "half", sv_view(&one, SV_F16, 1, 1)), SV_UNSUPPORTED, "float32");
    assert_fails(c, sv_weights_set_meta(c, w, "bad", "\xff"), SV_BAD_INPUT, "not UTF-8");
    assert_fails(c, sv_weights_set_meta(c, w, "", "x"), SV_BAD_INPUT, "unusable key");
    char *large = calloc(1, 70001);
    memset(large, 'x', 70000);
    assert_ok(c, sv_weights_set_meta(c, w, "large", large));
    assert_fails(c, sv_weights_write(c, w, test_path("large.h5")), SV_UNSUPPORTED,
                 "write .safetensors instead");
    assert_ok(c, sv_weights_write(c, w, test_path("large.safetensors")));
    assert_ok(c, sv_weights_set_meta(c, w, "large", ""));
    assert_ok(c, sv_weights_add(c, w, "a/b", sv_view(&one, SV_F32, 1, 1)));
    assert_fails(c, sv_weights_write(c, w, test_path("slash.h5")), SV_UNSUPPORTED, "cannot be named 'a/b'");
    free(large);
    sv_weights_free(w);
}
END_TEST

static void refuses_header(const char *json, size_t data, sv_status status, const char *text)
{
    bytes file = {0};
    put_le(&file, strlen(json), 8);
    put_text(&file, json);
    for (size_t i = 0; i < data; i++) put_text(&file, "\x01");
    refuses_and_frees(file, status, text);
}

START_TEST(safetensors_headers_are_checked)
{
#define T(dtype, shape, offsets) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
    refuses_header("{\"a\":" T("F32", "[2]", "[0,8]") "}", 7, SV_BAD_INPUT, "cut off");
    refuses_header("{\"a\":" T("F32", "[2]", "[0,8]") "}", 9, SV_BAD_INPUT, "belong to none");
    refuses_header("{\"a\":" T("F32", "[2]", "[0,4]") "}", 8, SV_BAD_INPUT, "needs 8 bytes");
    refuses_header("{\"a\":" T("F32", "[1]", "[4,8]") "}", 8, SV_BAD_INPUT, "overlap or leave a gap");
    refuses_header("{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[1]", "[4,8]") "}", 8, SV_BAD_INPUT,
                   "overlap or leave a gap");
    refuses_header("{\"a\":" T("F32", "[1]", "[8,4]") "}", 8, SV_BAD_INPUT, "overlap or leave a gap");
    refuses_header("{\"a\":" T("F32", "[0]", "[0,-4]") "}", 8, SV_BAD_INPUT, "negative");
    refuses_header("{\"a\":" T("F8_E4M3", "[1]", "[0,1]") "}", 1, SV_UNSUPPORTED, "type 'F8_E4M3'");
    refuses_header("{\"a\":" T("F32", "[1,1,1,1,1,1]", "[0,4]") "}", 4, SV_BAD_INPUT,
                   "more than 5 dimensions");
    refuses_header("{\"a\":" T("F32", "[2147483648]", "[0,8589934592]") "}", 4, SV_BAD_INPUT,
                   "impossible sizes");
    refuses_header("{\"a\":" T("F32", "[65536,65536,65536,65536]", "[0,0]") "}", 4, SV_BAD_INPUT,
                   "impossible sizes");
    refuses_header("{\"a\":" T("F32", "[1.5]", "[0,4]") "}", 4, SV_BAD_INPUT, "not whole");
    refuses_header("{\"a\":" T("F32", "[[1]]", "[0,4]") "}", 4, SV_BAD_INPUT, "list where none belongs");
    refuses_header("{\"a\":" T("F32", "[1]", "[0,4,8]") "}", 4, SV_BAD_INPUT, "number where none belongs");
    refuses_header("{\"a\":" T("F32", "[1]", "[0]") "}", 4, SV_BAD_INPUT, "is missing");
    refuses_header("{\"a\":{\"dtype\":\"F32\"}}", 4, SV_BAD_INPUT, "is missing");
    refuses_header("{\"a\":{\"x\":1}}", 4, SV_BAD_INPUT, "a key beside");
    refuses_header("{\"a\":{\"shape\":{}}}", 4, SV_BAD_INPUT, "too deeply");
    refuses_header("{\"a\":7}", 4, SV_BAD_INPUT, "number where none belongs");
    refuses_header("{\"a\":null}", 4, SV_BAD_INPUT, "null");
    refuses_header("{\"__metadata__\":[]}", 0, SV_BAD_INPUT, "list where none belongs");
    refuses_header("{\"__metadata__\":{\"a\":1}}", 0, SV_BAD_INPUT, "number where none belongs");
    refuses_header("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, SV_BAD_INPUT, "twice");
    refuses_header("{\"__metadata__\":{\"a\":\"\\u0000\"}}", 0, SV_BAD_INPUT, "zero byte");
    refuses_header("{\"__metadata__\":{\"format\":\"savanna-model\"}}", 0, SV_BAD_INPUT,
                   "lacks the checksum");
    refuses_header("{\"__metadata__\":{\"format\":\"savanna-model\",\"checksum\":\"0\"}}", 0, SV_BAD_INPUT,
                   "does not match");
    refuses_header("{\"a\":" T("F32", "[0]", "[0,0]") ",\"a\":" T("F32", "[0]", "[0,0]") "}", 0, SV_BAD_INPUT,
                   "'a' is there twice");
    refuses_header("{\"a\":" T("F32", "[1]", "[0,4]"), 4, SV_BAD_INPUT, "not valid JSON");
    refuses_header("{}{}", 0, SV_BAD_INPUT, "not valid JSON");
    refuses_header("{\"a\":" T("F32", "[1]", "[0,99999999999999999999]") "}", 4, SV_BAD_INPUT,
                   "not valid JSON");
    refuses("\xff\xff\xff\xff\xff\xff\xff\xff{\"a\"", 12, SV_BAD_INPUT, "is refused");
    refuses("\x20\0\0\0\0\0\0\0{\"a\"", 12, SV_BAD_INPUT, "cut off");

    /* Types, in any order in the file, and what other programs write. */
    static const char json[] =
        "{\"h\":" T("F16", "[2]", "[12,16]") ",\"__metadata__\":{\"format\":\"pt\"},\"b\":" T(
            "BF16", "[]", "[16,18]") ",\"d\":" T("F64", "[1]", "[0,8]") ",\"i\":" T("I32", "[1,1]",
                                                                                    "[8,12]") "}  ";
    static const uint8_t data[18] = {0,    0,    0,    0, 0,    0, 0xf8, 0x3f, 0xff,
                                     0xff, 0xff, 0xff, 0, 0x3c, 0, 0xc0, 0x80, 0x3f};
    bytes file = {0};
    put_le(&file, sizeof json - 1, 8);
    put_text(&file, json);
    put(&file, data, sizeof data);
    sv_weights *w = NULL;
    assert_ok(c, sv_weights_parse(c, "x.safetensors", file.data, file.size, &w));
    ck_assert(sv_f32(sv_weights_find(w, "d"))[0] == 1.5f);
    ck_assert(sv_i32(sv_weights_find(w, "i"))[0] == -1);
    ck_assert(sv_f32(sv_weights_find(w, "h"))[0] == 1 && sv_f32(sv_weights_find(w, "h"))[1] == -2);
    ck_assert(sv_f32(sv_weights_find(w, "b"))[0] == 1);
    ck_assert_str_eq(sv_weights_meta(w, "format"), "pt");
    sv_weights_free(w);
    free(file.data);
}
END_TEST

START_TEST(too_many_tensors_are_refused)
{
    sv_weights *w = sv_weights_new();
    float one = 1;
    char name[24];
    for (int i = 0; i < SV_WEIGHTS_MAX_TENSORS; i++) {
        snprintf(name, sizeof name, "t%d", i * 7919 % SV_WEIGHTS_MAX_TENSORS);
        assert_ok(c, sv_weights_add(c, w, name, sv_view(&one, SV_F32, 1, 1)));
    }
    assert_fails(c, sv_weights_add(c, w, "more", sv_view(&one, SV_F32, 1, 1)), SV_BAD_INPUT,
                 "more than 16384 tensors");
    for (int i = 1; i < sv_weights_count(w); i++)
        ck_assert_int_lt(strcmp(sv_weights_name(w, i - 1), sv_weights_name(w, i)), 0);
    sv_weights_free(w);
}
END_TEST

/* ---- reference checkpoints ----------------------------------------------------------------------------- */

START_TEST(reference_checkpoints_are_read)
{
    /* Number of tensors, of float32 numbers, and of one tensor its sum and one number, read with another
     * program. */
    static const struct {
        const char *name;
        int tensors, channels;
        int64_t numbers;
        double sum, number;
    } files[] = {
        {"kitti_mamba_full", 863, 64, 7233544, -6.877912763981939, -0.016707463189959526},
        {"kitti_mamba_small", 863, 16, 337720, -12.178587793689076, -0.07141820341348648},
        {"kitti_retnet_small", 659, 16, 287128, 8.769488420086873, 0.04386383667588234},
        {"kitti_rwkv_small", 1273, 32, 1623912, 7.9733943984304005, -0.0019087711116299033},
        {"kitti_ttt_small", 863, 16, 257276, 2.4121687734514126, -0.04404161497950554},
        {"kitti_xlstm_small", 1679, 16, 375256, 0.32705129941314226, -0.11986196786165237},
        {"nuscenes_mamba_small", 1017, 32, 1706127, 5.633734637138787, -0.07094834744930267},
        {"nuscenes_retnet_small", 813, 16, 807863, -4.896789129934405, -0.04145209863781929},
        {"waymo_mamba_small", 959, 32, 1251708, 22.72552517567624, -0.01187938917428255},
    };
    const char *folder = reference_folder();
    if (!folder) return;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/golden/lion/models/%s.pth", folder, files[i].name);
        sv_weights *w = NULL;
        assert_ok(c, sv_weights_open(c, path, &w));
        ck_assert_int_eq(sv_weights_count(w), files[i].tensors);
        int64_t numbers = 0, trainable = 0;
        for (int k = 0; k < sv_weights_count(w); k++) {
            const sv_tensor t = sv_weights_tensor(w, k);
            const int64_t count = (int64_t)t.dim[0] * t.pitch;
            numbers += t.dtype == SV_F32 ? count : 0;
            trainable += t.dtype == SV_F32 && !strstr(sv_weights_name(w, k), ".running_") ? count : 0;
        }
        ck_assert_int_eq(numbers, files[i].numbers);
        if (i == 0) ck_assert_int_eq(trainable, 7226696);
        const sv_tensor t = sv_weights_find(w, "backbone_3d.dow4.sub_conv.0.weight");
        ck_assert(t.ndim == 5 && t.dim[0] == files[i].channels && t.dim[1] == 3 &&
                  t.dim[4] == files[i].channels);
        const int64_t count = (int64_t)t.dim[0] * t.pitch;
        double sum = 0;
        for (int64_t k = 0; k < count; k++) sum += (double)sv_f32(t)[k];
        ck_assert_double_eq_tol(sum, files[i].sum, 1e-9);
        ck_assert(sv_f32(t)[12345 % count] == (float)files[i].number);
        ck_assert_str_eq(sv_weights_meta(w, "trained_with"), "pcdet+0.6.0+000000");
        /* through the native file and back */
        sv_weights *native = NULL;
        assert_ok(c, sv_weights_write(c, w, test_path("reference.h5")));
        assert_ok(c, sv_weights_open(c, test_path("reference.h5"), &native));
        check_equal(w, native);
        sv_weights_free(native);
        sv_weights_free(w);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("weights");
    TCase *tests = tcase_create("weights");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, sha256_knows_the_published_examples);
    tcase_add_loop_test(tests, pth_of_every_style_is_read, 0, 8);
    tcase_add_test(tests, pth_number_types_are_widened);
    tcase_add_test(tests, pth_views_are_made_dense);
    tcase_add_test(tests, pth_bad_views_are_refused);
    tcase_add_test(tests, pth_storages_must_fit);
    tcase_add_test(tests, pth_may_share_a_storage_but_not_multiply_it);
    tcase_add_test(tests, pickles_that_do_more_than_hold_data_are_refused);
    tcase_add_test(tests, pickles_are_bounded);
    tcase_add_loop_test(tests, pth_cut_off_anywhere_is_refused, 0, 2);
    tcase_add_test(tests, old_format_is_checked);
    tcase_add_loop_test(tests, pth_with_any_byte_changed_is_refused_or_whole, 0, 2);
    tcase_add_test(tests, zip_bombs_and_liars_are_refused);
    tcase_add_test(tests, zip_members_may_not_overlap);
    tcase_add_test(tests, byteorder_and_other_formats_are_named);
    tcase_add_loop_test(tests, model_files_come_back_and_are_the_same_bytes, 0, 3);
    tcase_add_loop_test(tests, model_files_cut_off_or_changed_are_refused, 0, 2);
    tcase_add_test(tests, writing_says_what_is_wrong);
    tcase_add_test(tests, safetensors_headers_are_checked);
    tcase_add_test(tests, too_many_tensors_are_refused);
    tcase_add_test(tests, reference_checkpoints_are_read);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
