/* SPDX-License-Identifier: Apache-2.0
 *
 * Configurations: reading, bases, --set, typed reads, unused keys, text, hostile input, and the files that
 * ship.
 */
#include "perception/model/config.h"
#include "support.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char notes[8192];
static void keep_note(void *user, sv_log_level level, const char *sentence)
{
    (void)user, (void)level;
    const size_t used = strlen(notes);
    snprintf(notes + used, sizeof notes - used, "%s\n", sentence);
}

static sv_ctx *context(void)
{
    sv_ctx *c = test_context(1);
    c->log = keep_note;
    notes[0] = '\0';
    return c;
}

static sv_config *parse(sv_ctx *c, const char *text)
{
    sv_config *config = NULL;
    assert_ok(c, sv_config_parse(c, text, strlen(text), "t.yaml", NULL, 0, &config));
    return config;
}

static void parse_fails(sv_ctx *c, const char *text, const char *words)
{
    sv_config *config = (sv_config *)c;
    assert_fails(c, sv_config_parse(c, text, strlen(text), "t.yaml", NULL, 0, &config), SV_BAD_INPUT, words);
    ck_assert_ptr_null(config);
}

static void write_text(const char *path, const char *text)
{
    write_file(path, text, strlen(text));
}

/* ---- reading
 * ------------------------------------------------------------------------------------------------ */

START_TEST(values_are_typed)
{
    sv_ctx *c = context();
    sv_config *config = parse(
        c, "A: {I: -12, F: 1e-3, G: .5, H: 0x10, U: 1_000, T: True, N: no, S: 'x y', Q: '12', Z: ~, E: }\n"
           "L: [1, 2, 3]\nM: [0.5, 1, 2]\nB: [[1, 2], [3, 4]]\nW: {0: a, x.y: b}\n");
    const sv_node *root = sv_config_root(config), *node;
    int i, list[3];
    double d, reals[3];
    bool b;
    const char *s;
    assert_ok(c, sv_node_int(c, root, "A.I", &i));
    ck_assert_int_eq(i, -12);
    assert_ok(c, sv_node_int(c, root, "A.H", &i));
    ck_assert_int_eq(i, 16);
    assert_ok(c, sv_node_number(c, root, "A.F", &d));
    ck_assert(d == 1e-3);
    assert_ok(c, sv_node_number(c, root, "A.G", &d));
    ck_assert(d == 0.5);
    assert_ok(c, sv_node_number(c, root, "A.U", &d));
    ck_assert(d == 1000);
    assert_ok(c, sv_node_bool(c, root, "A.T", &b));
    ck_assert(b);
    assert_ok(c, sv_node_bool(c, root, "A.N", &b));
    ck_assert(!b);
    assert_ok(c, sv_node_string(c, root, "A.S", &s));
    ck_assert_str_eq(s, "x y");
    assert_ok(c, sv_node_ints(c, root, "L", list, 3));
    ck_assert(list[0] == 1 && list[1] == 2 && list[2] == 3);
    assert_ok(c, sv_node_numbers(c, root, "M", reals, 3));
    ck_assert(reals[0] == 0.5 && reals[2] == 2);
    assert_ok(c, sv_node_int(c, root, "B.1.0", &i));
    ck_assert_int_eq(i, 3);

    /* absent: no key, ~ and nothing */
    ck_assert_ptr_null(sv_node_find(root, "A.Z"));
    ck_assert_ptr_null(sv_node_find(root, "A.E"));
    ck_assert_ptr_null(sv_node_find(root, "A.I.X"));
    ck_assert_ptr_null(sv_node_find(root, "L.3"));
    ck_assert_ptr_null(sv_node_find(NULL, "A"));
    assert_ok(c, sv_node_int_or(c, root, "A.Z", &i, 7));
    ck_assert_int_eq(i, 7);
    assert_ok(c, sv_node_string_or(c, root, "A.Q", &s, "none"));
    ck_assert_str_eq(s, "12");

    /* walking */
    assert_ok(c, sv_node_require(c, root, "W", &node));
    ck_assert_int_eq(sv_node_kind_of(node), SV_NODE_MAP);
    ck_assert_int_eq(sv_node_count(node), 2);
    ck_assert_str_eq(sv_node_key(node, 1), "x.y");
    ck_assert_str_eq(sv_node_text(sv_node_item(node, 1)), "b");
    ck_assert_ptr_null(sv_node_item(node, 2));
    node = sv_node_item(sv_node_find(root, "B"), 1);
    ck_assert_str_eq(sv_node_path(node), "B.1");
    ck_assert_str_eq(sv_node_text(node), "");
    ck_assert_str_eq(sv_node_path(root), "");
    assert_ok(c, sv_node_ints(c, node, "", list, 2)); /* a node is its own empty path */
    ck_assert_int_eq(list[1], 4);
    sv_config_free(config);
    sv_config_free(NULL);
    sv_ctx_close(c);
}
END_TEST

START_TEST(wrong_values_are_named)
{
    sv_ctx *c = context();
    sv_config *config = parse(c, "A:\n  I: 1.5\n  B: maybe\n  Q: '1'\n  O: 010\n  N: .nan\n  X: 1e999\n  "
                                 "BIG: 3000000000\nL: [1, x, ~]\n");
    const sv_node *root = sv_config_root(config);
    int i, list[3];
    double d;
    bool b;
    const char *s;
    assert_fails(c, sv_node_int(c, root, "A.I", &i), SV_BAD_INPUT,
                 "t.yaml:2: A.I is '1.5', expected a whole number");
    assert_fails(c, sv_node_bool(c, root, "A.B", &b), SV_BAD_INPUT,
                 "t.yaml:3: A.B is 'maybe', expected True or False");
    assert_fails(c, sv_node_number(c, root, "A.Q", &d), SV_BAD_INPUT,
                 "A.Q is the text '1', expected a number");
    assert_fails(c, sv_node_bool_or(c, root, "A.Q", &b, true), SV_BAD_INPUT, "A.Q is the text '1'");
    assert_fails(c, sv_node_number(c, root, "A.O", &d), SV_BAD_INPUT, "A.O is '010'"); /* eight or ten? */
    assert_fails(c, sv_node_int(c, root, "A.O", &i), SV_BAD_INPUT, "A.O");
    assert_fails(c, sv_node_number(c, root, "A.N", &d), SV_BAD_INPUT, "A.N is '.nan'");
    assert_fails(c, sv_node_number(c, root, "A.X", &d), SV_BAD_INPUT, "A.X is '1e999'");
    assert_fails(c, sv_node_int(c, root, "A.BIG", &i), SV_BAD_INPUT, "3000000000");
    assert_fails(c, sv_node_string(c, root, "A", &s), SV_BAD_INPUT,
                 "t.yaml:1: A is a map, expected a single word");
    assert_fails(c, sv_node_string(c, root, "L.2", &s), SV_BAD_INPUT, "L.2 is missing");
    assert_fails(c, sv_node_int(c, root, "L", &i), SV_BAD_INPUT, "L is a list, expected a whole number");
    assert_fails(c, sv_node_ints(c, root, "A.I", list, 2), SV_BAD_INPUT,
                 "expected a list of 2 whole numbers");
    assert_fails(c, sv_node_ints(c, root, "L", list, 2), SV_BAD_INPUT,
                 "L has 3 entries, expected a list of 2 whole numbers");
    assert_fails(c, sv_node_ints(c, root, "L", list, 3), SV_BAD_INPUT, "t.yaml:9: L.1 is 'x'");
    assert_fails(c, sv_node_int(c, root, "A.MISSING", &i), SV_BAD_INPUT, "t.yaml:1: A.MISSING is missing");
    assert_fails(c, sv_node_int(c, root, "NO.WHERE", &i), SV_BAD_INPUT, "NO.WHERE is missing");
    assert_fails(c, sv_node_int(c, NULL, "X", &i), SV_BAD_INPUT, "X is missing");
    sv_config_free(config);

    config = parse(c, "MODEL:\n  DIRECTON: [x, y]\n");
    const sv_node *node;
    assert_fails(c, sv_node_require(c, sv_config_root(config), "MODEL.DIRECTION", &node), SV_BAD_INPUT,
                 "MODEL.DIRECTION is missing, did you mean 'DIRECTON' there?");
    sv_config_free(config);
    sv_ctx_close(c);
}
END_TEST

START_TEST(hostile_text_is_refused)
{
    sv_ctx *c = context();
    sv_config *config = NULL;
    parse_fails(c, "", "t.yaml: a map of keys was expected, the text is empty");
    parse_fails(c, "# only a comment\n", "the text is empty");
    parse_fails(c, "~", "the text is empty");
    parse_fails(c, "- 1\n- 2\n", "the text is a list");
    parse_fails(c, "A: 1\nB: 2\nA: 3\n", "t.yaml:3: the key 'A' is here twice, first in line 1");
    parse_fails(c, "A: {x: 1, 'x': 2}\n", "the key 'x' is here twice");
    parse_fails(c, "A: &a [1]\nB: 2\n", "t.yaml:1: anchors (&) and aliases (*) are not supported");
    parse_fails(c, "A: 1\nB: *a\n", "t.yaml:2: anchors (&) and aliases (*)");
    parse_fails(c, "*a : 1\n", "aliases");
    parse_fails(c, "A: !!python/object:os.system x\n", "t.yaml:1: tags (!) are not supported");
    parse_fails(c, "A: 1\n---\nB: 1\n", "t.yaml:2: more than one YAML document");
    parse_fails(c, "A: [1, 2\nB: 3\n", "t.yaml:2: not valid YAML: ");
    parse_fails(c, "A: \"\\q\"\n", "not valid YAML");
    parse_fails(c, "A: \xff\xfe\n", "not valid YAML");
    parse_fails(c, "A: \"\\0\"\n", "t.yaml:1: a value contains a zero byte");
    parse_fails(c, "? [a, b]\n: 1\n", "a key must be a single word");
    parse_fails(c, "? {a: b}\n: 1\n", "a key must be a single word");
    parse_fails(c, "<<: {a: 1}\n", "the merge key '<<' is not supported");
    parse_fails(c, "'': 1\n", "a key must have 1 to 128 letters");
    assert_fails(c, sv_config_parse(c, "A: 1\0B: 2", 9, "t.yaml", NULL, 0, &config), SV_BAD_INPUT,
                 "contains zero bytes");

    char *big = malloc((2 << 20) + 1);
    memset(big, '[', 40);
    strcpy(big + 40, "\n");
    memcpy(big, "A: ", 3);
    parse_fails(c, big, "t.yaml:1: nested deeper than 32 levels");
    memset(big, '{', 1 << 19);
    big[1 << 19] = '\0';
    parse_fails(c, big, "a key must be a single word");
    memset(big, '-', 1 << 19);
    for (int i = 1; i < 1 << 19; i += 2) big[i] = ' ';
    parse_fails(c, big, "deeper than 32");
    memset(big, '#', 2 << 20);
    big[2 << 20] = '\0';
    parse_fails(c, big, "larger than the limit of 1048576 bytes");
    big[0] = '\0';
    for (int i = 0; i < 70000; i++) memcpy(big + 5 + 2 * i, "1,", 2);
    memcpy(big, "A:  [", 5);
    strcpy(big + 5 + 140000, "]");
    parse_fails(c, big, "more than 65536 values");
    char *end = big;
    for (int i = 0; i < 1025; i++) end += sprintf(end, "k%d: 1\n", i);
    parse_fails(c, big, "t.yaml:1025: more than 1024 keys in one map");
    memset(big, 'k', 129);
    strcpy(big + 129, ": 1\n");
    parse_fails(c, big, "a key must have 1 to 128 letters");
    free(big);
    sv_ctx_close(c);
}
END_TEST

/* Flips, cuts and repeats of a real file: any status is fine, a crash or a leak is not. */
START_TEST(damaged_text_never_crashes)
{
    static const char seed[] =
        "CLASS_NAMES: ['Car', \"P\\x41\"]\nDATA: {A: [1, 2, {b: ~}], C: |\n  text\n}\nM:\n  - NAME: x\n"
        "    V: [[1, 2], []]\n  - {}\n  - >\n    folded\nZ: !!str 1\nY: &q 1\n";
    sv_ctx *c = context();
    test_rng rng = {11};
    for (int round = 0; round < 4000; round++) {
        char text[512];
        size_t n = sizeof seed - 1;
        memcpy(text, seed, n);
        for (int i = (int)(rng_u64(&rng) % 4); i >= 0; i--) {
            const size_t at = rng_u64(&rng) % n;
            if (rng_u64(&rng) % 3 == 0)
                n = at + 1;
            else
                text[at] = "{}[]:,-#&*!|>'\"%@` \n\tA1\xc3\x80"[rng_u64(&rng) % 25];
        }
        sv_config *config = NULL, *again = NULL;
        if (sv_config_parse(c, text, n, "t", NULL, 0, &config) == SV_OK) {
            char *first = NULL, *second = NULL;
            assert_ok(c, sv_config_text(c, config, &first));
            assert_ok(c, sv_config_parse(c, first, strlen(first), "again", NULL, 0, &again));
            assert_ok(c, sv_config_text(c, again, &second));
            ck_assert_str_eq(first, second);
            free(first), free(second);
        }
        sv_config_free(config);
        sv_config_free(again);
        sv_error_clear(c);
    }
    sv_ctx_close(c);
}
END_TEST

/* ---- bases and --set
 * ----------------------------------------------------------------------------------------- */

START_TEST(bases_merge_as_the_official_code_does)
{
    sv_ctx *c = context();
    mkdir(test_path("cfgs"), 0777);
    mkdir(test_path("cfgs/models"), 0777);
    mkdir(test_path("cfgs/data"), 0777);
    write_text(test_path("cfgs/data/root.yaml"),
               "R: 1\nD: {a: 1, deep: {x: 1, y: 2}, list: [1, 2, 3], gone: 5}\n");
    write_text(test_path("cfgs/data/set.yaml"),
               "_BASE_CONFIG_: data/root.yaml\nD: {b: 2, deep: {y: 3}, list: [9], gone: ~}\n");
    write_text(test_path("cfgs/models/m.yaml"),
               "DATA:\n  _BASE_CONFIG_: cfgs/data/set.yaml\n  D: {deep: {z: 4}}\nMODEL: {N: 1}\n");
    sv_config *config = NULL;
    assert_ok(c, sv_config_load(c, test_path("cfgs/models/m.yaml"), NULL, 0, &config));
    char *text = NULL;
    assert_ok(c, sv_config_text(c, config, &text));
    ck_assert_str_eq(text, "DATA:\n  R: 1\n  D:\n    a: 1\n    deep:\n      x: 1\n      y: 3\n      z: 4\n   "
                           " list: [9]\n    b: 2\n"
                           "MODEL:\n  N: 1\n");
    free(text);
    /* a message names the file a value came from */
    int i;
    assert_fails(c, sv_node_ints(c, sv_config_root(config), "DATA.D.list", &i, 2), SV_BAD_INPUT,
                 "cfgs/data/set.yaml:2: DATA.D.list");
    sv_config_free(config);

    /* a base inside a map replaces what the outer base put there, key by key but not deeper */
    write_text(test_path("outer.yaml"), "M: {keep: 1, deep: {x: 1}}\n");
    write_text(test_path("inner.yaml"), "deep: {y: 2}\n");
    write_text(test_path("both.yaml"), "_BASE_CONFIG_: outer.yaml\nM: {_BASE_CONFIG_: inner.yaml, own: 3}\n");
    assert_ok(c, sv_config_load(c, test_path("both.yaml"), NULL, 0, &config));
    assert_ok(c, sv_config_text(c, config, &text));
    ck_assert_str_eq(text, "M:\n  keep: 1\n  deep:\n    y: 2\n  own: 3\n");
    free(text);
    sv_config_free(config);
    sv_ctx_close(c);
}
END_TEST

START_TEST(bad_bases_are_named)
{
    sv_ctx *c = context();
    sv_config *config = NULL;
    write_text(test_path("a.yaml"), "X: 1\n_BASE_CONFIG_: b.yaml\n");
    write_text(test_path("b.yaml"), "M:\n  _BASE_CONFIG_: ./a.yaml\n");
    assert_fails(c, sv_config_load(c, test_path("a.yaml"), NULL, 0, &config), SV_BAD_INPUT,
                 "b.yaml:2: _BASE_CONFIG_ './a.yaml' leads back to a file that is being read");
    ck_assert_ptr_null(config);
    write_text(test_path("self.yaml"), "_BASE_CONFIG_: self.yaml\n");
    assert_fails(c, sv_config_load(c, test_path("self.yaml"), NULL, 0, &config), SV_BAD_INPUT, "leads back");
    write_text(test_path("lost.yaml"), "A: 1\nB: {_BASE_CONFIG_: no/such.yaml}\n");
    assert_fails(c, sv_config_load(c, test_path("lost.yaml"), NULL, 0, &config), SV_BAD_INPUT,
                 "lost.yaml:2: _BASE_CONFIG_ 'no/such.yaml' was not found");
    write_text(test_path("folder.yaml"), "_BASE_CONFIG_: /tmp\n");
    assert_fails(c, sv_config_load(c, test_path("folder.yaml"), NULL, 0, &config), SV_BAD_INPUT,
                 "'/tmp' was not found");
    write_text(test_path("device.yaml"), "_BASE_CONFIG_: /dev/zero\n");
    assert_fails(c, sv_config_load(c, test_path("device.yaml"), NULL, 0, &config), SV_BAD_INPUT,
                 "'/dev/zero' was not found");
    write_text(test_path("list.yaml"), "_BASE_CONFIG_: [a.yaml]\n");
    assert_fails(c, sv_config_load(c, test_path("list.yaml"), NULL, 0, &config), SV_BAD_INPUT,
                 "must name one file, it is a list");
    write_text(test_path("kind_base.yaml"), "M: [1, 2]\n");
    write_text(test_path("kind.yaml"), "_BASE_CONFIG_: kind_base.yaml\nM: {a: 1}\n");
    assert_fails(c, sv_config_load(c, test_path("kind.yaml"), NULL, 0, &config), SV_BAD_INPUT,
                 "'M' is a map here, but a list in");
    assert_fails(c, sv_config_load(c, test_path("none.yaml"), NULL, 0, &config), SV_IO,
                 "none.yaml: cannot be opened");
    assert_fails(c, sv_config_load(c, test_folder(), NULL, 0, &config), SV_IO, "cannot be read");
    assert_fails(c, sv_config_load(c, "/dev/zero", NULL, 0, &config), SV_BAD_INPUT, "larger than the limit");

    /* a chain and a bomb of includes end */
    char name[32], text[4096];
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof name, "chain%d.yaml", i);
        snprintf(text, sizeof text, "_BASE_CONFIG_: chain%d.yaml\n", i + 1);
        write_text(test_path(name), text);
    }
    assert_fails(c, sv_config_load(c, test_path("chain0.yaml"), NULL, 0, &config), SV_BAD_INPUT,
                 "nested deeper than 16 files");
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof name, "bomb%d.yaml", i);
        size_t used = 0;
        for (int j = 0; j < 10; j++) {
            if (i < 9)
                used += (size_t)snprintf(text + used, sizeof text - used,
                                         "k%d: {_BASE_CONFIG_: bomb%d.yaml}\n", j, i + 1);
            else
                used += (size_t)snprintf(text + used, sizeof text - used, "k%d: 1\n", j);
        }
        write_text(test_path(name), text);
    }
    assert_fails(c, sv_config_load(c, test_path("bomb0.yaml"), NULL, 0, &config), SV_BAD_INPUT,
                 "more than 64 files");
    sv_ctx_close(c);
}
END_TEST

START_TEST(sets_replace_values)
{
    static const char text[] = "M:\n  N: 1\n  L: [1, 2, 3]\n  S: word\n  D: {a: 1, b: 2}\n  E: ~\nP:\n  - "
                               "{NAME: x, V: 1}\n  - {NAME: y, V: 2}\n";
    static const char *const sets[] = {"M.N", "1e-4",         "M.L", "4,5", "M.S",   "'a: b'",
                                       "M.D", "{b: 3, c: 4}", "M.E", "[7]", "P.1.V", "9"};
    sv_ctx *c = context();
    sv_config *config = NULL;
    assert_ok(c, sv_config_parse(c, text, sizeof text - 1, "t.yaml", sets, 6, &config));
    char *out = NULL;
    assert_ok(c, sv_config_text(c, config, &out));
    ck_assert_str_eq(
        out, "M:\n  N: 1e-4\n  L: [4, 5]\n  S: \"a: b\"\n  D:\n    a: 1\n    b: 3\n    c: 4\n  E: [7]\n"
             "P:\n  - NAME: x\n    V: 1\n  - NAME: y\n    V: 9\n");
    free(out);
    int i;
    assert_fails(c, sv_node_int(c, sv_config_root(config), "M.N", &i), SV_BAD_INPUT,
                 "--set M.N: M.N is '1e-4'");
    sv_config_free(config);

    static const struct {
        const char *key, *value, *words;
    } wrong[] = {
        {"M.NN", "1", "--set M.NN: the configuration has no such key ('NN' is unknown, did you mean 'N'?)"},
        {"M.ZZZZ.Y", "1", "('ZZZZ' is unknown)"},
        {"M.L.7", "1", "('7' is unknown)"},
        {"M.N.X", "1", "('X' is unknown)"},
        {"", "1", "has no such key"},
        {"M..N", "1", "has no such key"},
        {"M.L", "5", "the value is a single value, but the key is a list in t.yaml:3"},
        {"M.D", "1", "the value is a single value, but the key is a map in t.yaml:5"},
        {"M.N", "[1]", "the value is a list, but the key is a single value in t.yaml:2"},
        {"M.N", "[1", "--set M.N: not valid YAML"},
        {"M.N", "*a", "--set M.N: anchors"},
    };
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        const char *const pair[] = {wrong[k].key, wrong[k].value};
        assert_fails(c, sv_config_parse(c, text, sizeof text - 1, "t.yaml", pair, 1, &config), SV_BAD_INPUT,
                     wrong[k].words);
        ck_assert_ptr_null(config);
    }
    const char *const away[] = {"M.N", "", "M.L.0", "~"};
    assert_ok(c, sv_config_parse(c, text, sizeof text - 1, "t.yaml", away, 2, &config));
    ck_assert_ptr_null(sv_node_find(sv_config_root(config), "M.N"));
    ck_assert_ptr_null(sv_node_find(sv_config_root(config), "M.L.0"));
    ck_assert_int_eq(sv_node_count(sv_node_find(sv_config_root(config), "M.L")), 3);
    sv_config_free(config);
    sv_ctx_close(c);
}
END_TEST

/* ---- unused keys
 * ---------------------------------------------------------------------------------------------- */

START_TEST(unread_keys_are_found)
{
    sv_ctx *c = context();
    sv_config *config = parse(
        c, "MODEL:\n  SHIFFT: True\n  WIDTH: 4\n  LIST: [1, 2]\n  EMPTY: {}\nTRAIN:\n  LR: 1\n  WD: 2\n");
    const sv_node *root = sv_config_root(config);
    int i, list[2];
    bool shift;
    assert_ok(c, sv_node_int(c, root, "MODEL.WIDTH", &i));
    assert_ok(c, sv_node_bool_or(c, root, "MODEL.SHIFT", &shift, false));
    assert_fails(
        c, sv_config_check_used(c, config), SV_BAD_INPUT,
        "unknown or not supported in the configuration: MODEL.SHIFFT (t.yaml:2; did you mean 'SHIFT'?), "
        "MODEL.LIST (t.yaml:4), MODEL.EMPTY (t.yaml:5), TRAIN (t.yaml:6)");
    ck_assert_ptr_nonnull(strstr(notes, "not used: MODEL.LIST (t.yaml:4)"));
    ck_assert_ptr_null(strstr(notes, "WIDTH"));
    notes[0] = '\0';
    sv_node_ignore(c, root, "TRAIN", "only for training");
    sv_node_ignore(c, root, "TRAIN", "only for training");
    sv_node_ignore(c, root, "MODEL.SHIFFT", NULL);
    sv_node_ignore(c, root, "MODEL.NOTHING", "never there");
    ck_assert_str_eq(notes, "t.yaml:6: TRAIN: only for training\n");
    ck_assert_ptr_nonnull(sv_node_find(root, "MODEL.EMPTY"));
    assert_fails(c, sv_config_check_used(c, config), SV_BAD_INPUT,
                 "in the configuration: MODEL.LIST (t.yaml:4)");
    ck_assert_ptr_nonnull(sv_node_find(root, "MODEL.LIST"));
    assert_fails(c, sv_config_check_used(c, config), SV_BAD_INPUT,
                 "MODEL.LIST.0 (t.yaml:4), MODEL.LIST.1 (t.yaml:4)");
    assert_ok(c, sv_node_ints(c, root, "MODEL.LIST", list, 2));
    assert_ok(c, sv_config_check_used(c, config));
    sv_config_free(config);

    config = parse(c, "A: 1\nB: 1\nC: 1\nD: 1\nE: 1\nF: 1\nG: 1\n");
    assert_fails(c, sv_config_check_used(c, config), SV_BAD_INPUT,
                 "7 keys of the configuration are unknown or not supported: A (t.yaml:1)");
    sv_config_free(config);
    sv_ctx_close(c);
}
END_TEST

/* ---- text
 * ----------------------------------------------------------------------------------------------------- */

START_TEST(text_reads_back)
{
    static const char text[] = "S: ['', '~', 'null', \"12\", 'True', 'a b', \"tab\\tquote\\\"back\\\\\", "
                               "\"\\u00fc\\u2028\\U0001F600\", '- x', '#', '-', '---', x.y/z]\n"
                               "N: [1, [2, []], {}]\n'key with: colon': {'': 1x}\nB: [{a: [1, {b: 2}]}, "
                               "[[{c: 3}]], ~]\nT: |\n  two\n  lines\n";
    sv_ctx *c = context();
    char fixed[1024];
    snprintf(fixed, sizeof fixed, "%s", text);
    char *hole = strstr(fixed, "'': 1x");
    memcpy(hole, "x : 1x", 6);
    sv_config *config = parse(c, fixed), *again = NULL;
    char *first = NULL, *second = NULL;
    assert_ok(c, sv_config_text(c, config, &first));
    assert_ok(c, sv_config_parse(c, first, strlen(first), "again", NULL, 0, &again));
    assert_ok(c, sv_config_text(c, again, &second));
    ck_assert_str_eq(first, second);
    const sv_node *a = sv_node_find(sv_config_root(config), "S"),
                  *b = sv_node_find(sv_config_root(again), "S");
    ck_assert_int_eq(sv_node_count(a), 13);
    for (int i = 0; i < 13; i++)
        ck_assert_str_eq(sv_node_text(sv_node_item(a, i)), sv_node_text(sv_node_item(b, i)));
    const char *word;
    assert_ok(c, sv_node_string(c, b, "7", &word));
    ck_assert_str_eq(word, "\xc3\xbc\xe2\x80\xa8\xf0\x9f\x98\x80");
    assert_ok(c, sv_node_string(c, b, "0", &word)); /* an empty text is not an absent one */
    assert_ok(c, sv_node_string(c, b, "2", &word));
    assert_ok(c, sv_node_string(c, sv_config_root(again), "T", &word));
    ck_assert_str_eq(word, "two\nlines\n");
    ck_assert_ptr_nonnull(sv_node_find(sv_config_root(again), "B.1.0.0.c"));
    free(first), free(second);
    sv_config_free(config);
    sv_config_free(again);

    config = parse(c, "{}");
    assert_ok(c, sv_config_text(c, config, &first));
    ck_assert_str_eq(first, "{}\n");
    free(first);
    sv_config_free(config);
    sv_ctx_close(c);
}
END_TEST

/* ---- files
 * ---------------------------------------------------------------------------------------------------- */

static const char *source_path(const char *name)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", SAVANNA_SOURCE, name);
    return path;
}

static sv_config *load(sv_ctx *c, const char *path)
{
    sv_config *config = NULL, *again = NULL;
    assert_ok(c, sv_config_load(c, path, NULL, 0, &config));
    char *first = NULL, *second = NULL;
    assert_ok(c, sv_config_text(c, config, &first));
    assert_ok(c, sv_config_parse(c, first, strlen(first), path, NULL, 0, &again));
    assert_ok(c, sv_config_text(c, again, &second));
    ck_assert_str_eq(first, second);
    free(first), free(second);
    sv_config_free(again);
    return config;
}

static const struct {
    const char *file, *op, *head;
    int width, bev, classes, grid[3];
} shipped[] = {
    {"kitti_lion_mamba", "Mamba", "AnchorHeadSingle", 64, 128, 3, {352, 400, 32}},
    {"kitti_lion_rwkv", "RWKV", "AnchorHeadSingle", 64, 128, 3, {352, 400, 32}},
    {"kitti_lion_retnet", "RetNet", "AnchorHeadSingle", 64, 128, 3, {352, 400, 32}},
    {"kitti_lion_xlstm", "xLSTM", "AnchorHeadSingle", 64, 128, 3, {352, 400, 32}},
    {"kitti_lion_ttt", "TTT", "AnchorHeadSingle", 64, 128, 3, {352, 400, 32}},
    {"nuscenes_lion_mamba", "Mamba", "TransFusionHead", 128, 256, 10, {360, 360, 32}},
    {"nuscenes_lion_rwkv", "RWKV", "TransFusionHead", 128, 256, 10, {360, 360, 32}},
    {"nuscenes_lion_retnet", "RetNet", "TransFusionHead", 128, 256, 10, {360, 360, 32}},
    {"waymo_lion_mamba_64", "Mamba", "CenterHead", 64, 128, 3, {472, 472, 32}},
    {"waymo_lion_mamba_128", "Mamba", "CenterHead", 128, 256, 3, {472, 472, 32}},
    {"waymo_lion_rwkv_64", "RWKV", "CenterHead", 64, 128, 3, {472, 472, 32}},
    {"waymo_lion_retnet_64", "RetNet", "CenterHead", 64, 128, 3, {472, 472, 32}},
    {"once_lion_mamba", "Mamba", "CenterHead", 128, 256, 5, {376, 376, 32}},
    {"once_lion_rwkv", "RWKV", "CenterHead", 128, 256, 5, {376, 376, 32}},
    {"once_lion_retnet", "RetNet", "CenterHead", 128, 256, 5, {376, 376, 32}},
    {"argoverse2_lion_mamba", "Mamba", "SparseCenterHead", 128, 0, 26, {1000, 1000, 32}},
    {"argoverse2_lion_rwkv", "RWKV", "SparseCenterHead", 128, 0, 26, {1000, 1000, 32}},
    {"argoverse2_lion_retnet", "RetNet", "SparseCenterHead", 128, 0, 26, {1000, 1000, 32}},
};
enum { SHIPPED = sizeof shipped / sizeof *shipped };

START_TEST(shipped_files_resolve)
{
    sv_ctx *c = context();
    char name[128];
    snprintf(name, sizeof name, "perception/model/configs/%s.yaml", shipped[_i].file);
    sv_config *config = load(c, source_path(name));
    const sv_node *root = sv_config_root(config), *processors, *names;
    const char *word;
    int width, list[4], channels[2];
    double range[6], size[3];
    assert_ok(c, sv_node_string(c, root, "MODEL.BACKBONE_3D.OPERATOR.NAME", &word));
    ck_assert_str_eq(word, shipped[_i].op);
    ck_assert_ptr_nonnull(sv_node_find(root, "MODEL.BACKBONE_3D.OPERATOR.CFG"));
    assert_ok(c, sv_node_string(c, root, "MODEL.DENSE_HEAD.NAME", &word));
    ck_assert_str_eq(word, shipped[_i].head);
    assert_ok(c, sv_node_int(c, root, "MODEL.BACKBONE_3D.FEATURE_DIM", &width));
    ck_assert_int_eq(width, shipped[_i].width);
    assert_ok(c, sv_node_ints(c, root, "MODEL.BACKBONE_3D.LAYER_DIM", list, 4));
    for (int i = 0; i < 4; i++) ck_assert_int_eq(list[i], width);
    assert_ok(c, sv_node_ints(c, root, "MODEL.VFE.NUM_FILTERS", channels, 2));
    ck_assert_int_eq(channels[1], width);
    assert_ok(c, sv_node_ints(c, root, "MODEL.BACKBONE_3D.GROUP_SIZE", list, 4));
    ck_assert(list[0] == 4096 && list[3] == 512);
    assert_ok(c, sv_node_int_or(c, root, "MODEL.MAP_TO_BEV.NUM_BEV_FEATURES", &width, 0));
    ck_assert_int_eq(width, shipped[_i].bev);
    assert_ok(c, sv_node_require(c, root, "CLASS_NAMES", &names));
    ck_assert_int_eq(sv_node_count(names), shipped[_i].classes);
    assert_ok(c, sv_node_numbers(c, root, "DATA_CONFIG.POINT_CLOUD_RANGE", range, 6));
    assert_ok(c, sv_node_require(c, root, "DATA_CONFIG.DATA_PROCESSOR", &processors));
    assert_ok(c, sv_node_numbers(c, sv_node_item(processors, 1), "VOXEL_SIZE", size, 3));
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq((int)round((range[3 + i] - range[i]) / size[i]), shipped[_i].grid[i]);
    sv_config_free(config);
    sv_ctx_close(c);
}
END_TEST

START_TEST(every_shipped_file_is_tested)
{
    DIR *folder = opendir(source_path("perception/model/configs"));
    ck_assert_ptr_nonnull(folder);
    int files = 0;
    for (struct dirent *entry; (entry = readdir(folder));) /* suites of their own have the others */
        files += strstr(entry->d_name, "_lion_") != NULL && strstr(entry->d_name, ".yaml") != NULL;
    closedir(folder);
    ck_assert_int_eq(files, SHIPPED);
}
END_TEST

/* By its bare name a configuration that ships comes out of the library, with its bases, and is what the file says. */
START_TEST(shipped_files_by_name)
{
    sv_ctx *c = context();
    char name[128], *built_in = NULL, *file = NULL;
    snprintf(name, sizeof name, "perception/model/configs/%s.yaml", shipped[_i].file);
    sv_config *a = load(c, source_path(name)), *b = load(c, shipped[_i].file);
    assert_ok(c, sv_config_text(c, a, &file));
    assert_ok(c, sv_config_text(c, b, &built_in));
    ck_assert_str_eq(file, built_in);
    free(file), free(built_in);
    sv_config_free(a);
    sv_config_free(b);
    /* and serves as a base, after what lies on disk */
    write_text(test_path("mine.yaml"), "_BASE_CONFIG_: kitti_lion_mamba\nMODEL: {NAME: Mine}\n");
    a = load(c, test_path("mine.yaml"));
    const char *word = NULL;
    assert_ok(c, sv_node_string(c, sv_config_root(a), "MODEL.NAME", &word));
    ck_assert_str_eq(word, "Mine");
    assert_ok(c, sv_node_string(c, sv_config_root(a), "MODEL.BACKBONE_3D.OPERATOR.NAME", &word));
    ck_assert_str_eq(word, "Mamba");
    sv_config_free(a);
    assert_fails(c, sv_config_load(c, "kitti_lion_mambo", NULL, 0, &a), SV_IO,
                 "no file of this name, and no such configuration ships (did you mean 'kitti_lion_mamba'?)");
    sv_ctx_close(c);
}
END_TEST

/* Every value of 'ours' that 'theirs' has as well must mean the same. Returns how many were compared. */
static int compare(const sv_node *ours, const sv_node *theirs)
{
    ck_assert_msg(sv_node_kind_of(ours) == sv_node_kind_of(theirs), "%s differs in kind", sv_node_path(ours));
    if (sv_node_kind_of(ours) == SV_NODE_SCALAR) {
        const char *a = sv_node_text(ours), *b = sv_node_text(theirs);
        char *end_a, *end_b;
        const double x = strtod(a, &end_a), y = strtod(b, &end_b);
        const bool numbers = *a && *b && !*end_a && !*end_b;
        bool same = numbers ? x == y : strcmp(a, b) == 0;
        if (!same)
            same = (strcmp(a, "True") == 0 && strcmp(b, "true") == 0) ||
                   (strcmp(a, "False") == 0 && strcmp(b, "false") == 0);
        ck_assert_msg(same, "%s is %s, the reference has %s", sv_node_path(ours), a, b);
        return 1;
    }
    int compared = 0;
    if (sv_node_kind_of(ours) == SV_NODE_LIST) {
        ck_assert_msg(sv_node_count(ours) == sv_node_count(theirs), "%s differs in length",
                      sv_node_path(ours));
        for (int i = 0; i < sv_node_count(ours); i++)
            compared += compare(sv_node_item(ours, i), sv_node_item(theirs, i));
        return compared;
    }
    for (int i = 0; i < sv_node_count(ours); i++) {
        const sv_node *other = sv_node_find(theirs, sv_node_key(ours, i));
        ck_assert_msg(other != NULL, "%s is not in the reference", sv_node_path(sv_node_item(ours, i)));
        compared += compare(sv_node_item(ours, i), other);
    }
    return compared;
}

START_TEST(reference_files_agree)
{
    const char *reference = reference_folder();
    if (!reference) return;
    sv_ctx *c = context();
    char path[512];
    snprintf(path, sizeof path, "%s/golden/lion/models", reference);
    DIR *folder = opendir(path);
    ck_assert_msg(folder != NULL, "cannot open %s", path);
    int files = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!strstr(entry->d_name, ".yaml")) continue;
        snprintf(path, sizeof path, "%s/golden/lion/models/%.200s", reference, entry->d_name);
        sv_config_free(load(c, path));
        files++;
    }
    closedir(folder);
    ck_assert_int_ge(files, 1);

    snprintf(path, sizeof path, "%s/golden/lion/models/kitti_mamba_full.yaml", reference);
    sv_config *ours = load(c, source_path("perception/model/configs/kitti_lion_mamba.yaml")),
              *theirs = load(c, path);
    ck_assert_int_ge(
        compare(sv_node_find(sv_config_root(ours), "MODEL"), sv_node_find(sv_config_root(theirs), "MODEL")),
        100);
    sv_config_free(ours);
    sv_config_free(theirs);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("config");
    TCase *tests = tcase_create("config");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, values_are_typed);
    tcase_add_test(tests, wrong_values_are_named);
    tcase_add_test(tests, hostile_text_is_refused);
    tcase_add_test(tests, damaged_text_never_crashes);
    tcase_add_test(tests, bases_merge_as_the_official_code_does);
    tcase_add_test(tests, bad_bases_are_named);
    tcase_add_test(tests, sets_replace_values);
    tcase_add_test(tests, unread_keys_are_found);
    tcase_add_test(tests, text_reads_back);
    tcase_add_loop_test(tests, shipped_files_resolve, 0, SHIPPED);
    tcase_add_test(tests, every_shipped_file_is_tested);
    tcase_add_loop_test(tests, shipped_files_by_name, 0, SHIPPED);
    tcase_add_test(tests, reference_files_agree);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
