/* SPDX-License-Identifier: Apache-2.0
 *
 * Final boxes of many frames, fp32, GPU beside CPU. A frame agrees when both found the same boxes: label, geometry
 * within a millimetre (a thousandth of what is larger than a metre), score within 1e-4. Scores that a power of a predicted
 * overlap corrects may differ by 1e-3, which is told: near an overlap of 0 that power enlarges rounding without bound.
 *
 * Where they differ, boxes without a partner are shown beside their nearest, and the first choice that fell out
 * differently is looked for: which voxels each merge grows from, then which candidates the head takes, then their
 * order. Rounding may decide a choice between scores that are as good as equal: the frame agrees, too, when the CPU's
 * own scores of what was exchanged lie within 2e-6 of each other; and where voxels were exchanged, the GPU must find
 * the CPU's boxes once the CPU's voxels are imposed on it.
 *
 *     check_frames CONFIG WEIGHTS LAYOUT POINTS...
 *
 * CONFIG: - where the weights bring it; LAYOUT: - for the model's own; POINTS: files, or folders of *.bin.
 * Exit code: 0 all frames agree, 1 not, 77 no GPU.
 */
#include "sides.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CHOICES = 64, MOST_FILES = 256 };
static const double tie = 2e-6, score_apart = 1e-4, weak_score_apart = 1e-3, PI = 3.14159265358979323846;

/* ---- choices ------------------------------------------------------------------------------------------- */

/* Rows or candidates that were taken out of more, and the scores they were taken by. */
typedef struct choice {
    char name[96];
    bool in_order, by_row; /* scores belong to all rows, not to what was taken */
    int32_t *taken;
    int count;
    float *scores;
    int score_count;
} choice;

typedef struct record {
    choice choices[CHOICES];
    int count;
    const struct record *imposed; /* its voxels are taken instead */
    int merges;
} record;

static void forget(record *r)
{
    for (int i = 0; i < r->count; i++) {
        free(r->choices[i].taken);
        free(r->choices[i].scores);
    }
    memset(r, 0, sizeof *r);
}

static const char *last_part(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

/* The choice whose scores or numbers a tensor of this name holds; a new one with the first of both. */
static choice *choice_of(record *r, const char *name, bool begins, bool in_order, bool by_row)
{
    const int length = (int)(last_part(name) - name);
    if (!begins) return r->count > 0 ? &r->choices[r->count - 1] : NULL;
    if (r->count == CHOICES) return NULL;
    choice *k = &r->choices[r->count++];
    snprintf(k->name, sizeof k->name, "%.*s", length > 0 ? length - 1 : 0, name);
    k->in_order = in_order, k->by_row = by_row;
    return k;
}

static sv_status impose(record *r, sv_ctx *c, sv_tensor picks)
{
    int at = 0;
    for (int i = 0; i < r->imposed->count; i++) {
        const choice *k = &r->imposed->choices[i];
        if (!k->by_row || at++ < r->merges) continue;
        SV_CHECK(c, picks.dim[0] >= k->count, SV_INTERNAL, "room for %d picks, not %d", picks.dim[0],
                 k->count);
        r->merges++;
        return c->device->upload(c, picks.data, k->taken, sizeof(int32_t) * (size_t)k->count);
    }
    return SV_OK;
}

static sv_status see(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    static const struct {
        const char *scores, *numbers;
        bool in_order, by_row;
    } kinds[] = {{"topk_scores", "topk_indices", false, true},
                 {"candidate_scores", "candidate_index", true, false},
                 {"picked_scores", "picked_rows", true, false},
                 {"query_heat", "query_cells", true, false}};
    record *r = user;
    const char *last = last_part(name);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const bool scores = strcmp(last, kinds[i].scores) == 0;
        if (!scores && strcmp(last, kinds[i].numbers) != 0) continue;
        if (!scores && kinds[i].by_row && r->imposed) return impose(r, c, tensor);
        choice *k = choice_of(r, name, scores, kinds[i].in_order, kinds[i].by_row);
        SV_CHECK(c, k, SV_INTERNAL, "%s: more than %d choices", name, CHOICES);
        if (scores) return sv_download_rows(c, tensor, (void **)&k->scores, &k->score_count);
        return sv_download_rows(c, tensor, (void **)&k->taken, &k->count);
    }
    return SV_OK;
}

static found detect_seen(side *s, sv_frame *frame, record *r)
{
    sv_ctx *c = sv_detector_ctx(s->detector);
    int reruns;
    found f = {0};
    do { /* a frame that outgrew its capacities was seen twice */
        const record *imposed = r->imposed;
        forget(r);
        r->imposed = imposed;
        free(f.boxes);
        reruns = sv_detector_reruns(s->detector);
        c->probe = see;
        c->probe_user = r;
        f = detect(s, frame);
        c->probe = NULL;
    } while (sv_detector_reruns(s->detector) != reruns);
    return f;
}

/* ---- where choices part -------------------------------------------------------------------------------- */

typedef struct parting {
    const choice *at; /* NULL: every choice is the same */
    int exchanged;
    bool order_only;
    double margin; /* of the CPU's scores */
} parting;

static int by_number(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static int32_t *sorted(const choice *k)
{
    int32_t *out = malloc(sizeof *out * ((size_t)k->count + 1));
    if (!out) exit(1);
    memcpy(out, k->taken, sizeof *out * (size_t)k->count);
    qsort(out, (size_t)k->count, sizeof *out, by_number);
    return out;
}

static double score_of(const choice *k, int32_t number)
{
    if (k->by_row) return number >= 0 && number < k->score_count ? (double)k->scores[number] : NAN;
    for (int i = 0; i < k->count && i < k->score_count; i++)
        if (k->taken[i] == number) return (double)k->scores[i];
    return NAN;
}

/*
 * The widest gap between what only the CPU took and what only the GPU took. Scores of rows are the CPU's; those of
 * candidates are known where they were taken. Numbers that differ mean a threshold, which lies below all that was
 * taken.
 */
static void compare_sets(const choice *cpu, const choice *gpu, parting *p)
{
    int32_t *a = sorted(cpu), *b = sorted(gpu);
    double highest = -INFINITY, lowest = INFINITY;
    int i = 0, j = 0, only[2] = {0};
    while (i < cpu->count || j < gpu->count) {
        const bool left = j == gpu->count || (i < cpu->count && a[i] < b[j]),
                   right = !left && (i == cpu->count || a[i] > b[j]);
        if (left || right) {
            const double score = left ? score_of(cpu, a[i]) : score_of(cpu->by_row ? cpu : gpu, b[j]);
            highest = fmax(highest, score), lowest = fmin(lowest, score);
            only[right]++;
        }
        i += !right, j += !left;
    }
    free(a);
    free(b);
    if (only[0] + only[1] == 0) return;
    for (int k = 0; only[0] != only[1] && !cpu->by_row && k < cpu->score_count; k++)
        lowest = fmin(lowest, (double)cpu->scores[k]);
    p->at = cpu;
    p->exchanged = only[0] > only[1] ? only[0] : only[1];
    p->margin = highest - lowest;
}

static void compare_order(const choice *cpu, const choice *gpu, parting *p)
{
    for (int i = 0; i < cpu->count; i++) {
        if (cpu->taken[i] == gpu->taken[i]) continue;
        p->at = cpu;
        p->order_only = true;
        p->exchanged++;
        p->margin = fmax(p->margin, fabs(score_of(cpu, cpu->taken[i]) - score_of(cpu, gpu->taken[i])));
    }
}

static parting part(const record *cpu, const record *gpu)
{
    parting p = {0};
    for (int i = 0; i < cpu->count && i < gpu->count && !p.at; i++) {
        compare_sets(&cpu->choices[i], &gpu->choices[i], &p);
        if (!p.at && cpu->choices[i].in_order) compare_order(&cpu->choices[i], &gpu->choices[i], &p);
    }
    return p;
}

/* ---- boxes --------------------------------------------------------------------------------------------- */

/* The largest difference of the geometry, of what is larger than a metre as a share. */
static double apart(const sv_box *p, const sv_box *q)
{
    const float a[] = {p->x, p->y, p->z, p->dx, p->dy, p->dz, p->vx, p->vy},
                b[] = {q->x, q->y, q->z, q->dx, q->dy, q->dz, q->vx, q->vy};
    double most = fabs(remainder((double)p->heading - (double)q->heading, 2 * PI));
    for (int i = 0; i < 8; i++)
        most = fmax(most, fabs((double)a[i] - (double)b[i]) / fmax(1, fabs((double)a[i])));
    return most;
}

enum { SHOWN = 4 };
typedef struct agreement {
    int equal, alone[SHOWN], alone_count; /* alone: the CPU's that have no equal, the first of them */
    double geometry, score;               /* largest differences of equal boxes */
} agreement;

static agreement compare(const found *cpu, const found *gpu, double most)
{
    agreement out = {0};
    bool *used = calloc((size_t)gpu->count + 1, sizeof *used);
    if (!used) exit(1);
    for (int i = 0; i < cpu->count; i++) {
        const sv_box *p = &cpu->boxes[i];
        int k = 0;
        for (; k < gpu->count; k++)
            if (!used[k] && p->label == gpu->boxes[k].label && apart(p, &gpu->boxes[k]) <= 1e-3 &&
                fabs((double)p->score - (double)gpu->boxes[k].score) <= most)
                break;
        if (k == gpu->count) {
            if (out.alone_count < SHOWN) out.alone[out.alone_count++] = i;
            continue;
        }
        used[k] = true;
        out.equal++;
        out.geometry = fmax(out.geometry, apart(p, &gpu->boxes[k]));
        out.score = fmax(out.score, fabs((double)p->score - (double)gpu->boxes[k].score));
    }
    free(used);
    return out;
}

typedef enum verdict { EQUAL, OTHER_SCORES, DECIDED_BY_ROUNDING, DIFFERENT, VERDICTS } verdict;

static bool all(const agreement *a, const found *cpu, const found *gpu)
{
    return a->equal == cpu->count && a->equal == gpu->count;
}

/* Boxes without an equal, each beside what comes nearest. */
static void show_alone(const agreement *a, const found *cpu, const found *gpu, const char *name)
{
    for (int n = 0; n < a->alone_count; n++) {
        const sv_box *p = &cpu->boxes[a->alone[n]], *best = NULL;
        for (int k = 0; k < gpu->count; k++) {
            const sv_box *q = &gpu->boxes[k];
            if (q->label == p->label && (!best || apart(p, q) < apart(p, best))) best = q;
        }
        printf("        %s: the CPU's box %d (label %d, score %.5f, %.2f %.2f %.2f m) ", name, a->alone[n],
               (int)p->label, (double)p->score, (double)p->x, (double)p->y, (double)p->z);
        if (best)
            printf("has its nearest on the GPU %.2g apart, score by %.2g, heading by %.2g\n", apart(p, best),
                   fabs((double)p->score - (double)best->score),
                   fabs(remainder((double)p->heading - (double)best->heading, 2 * PI)));
        else
            printf("has none of its label on the GPU\n");
    }
}

/* Why the boxes differ; whether a choice that rounding decides explains it. */
static bool explain(side *cpu, side *gpu, sv_frame *host, sv_frame *device, const char *name)
{
    record seen_cpu = {0}, seen_gpu = {0}, seen_imposed = {.imposed = &seen_cpu};
    found a = detect_seen(cpu, host, &seen_cpu), b = detect_seen(gpu, device, &seen_gpu);
    const agreement seen = compare(&a, &b, score_apart);
    show_alone(&seen, &a, &b, name);
    const parting p = part(&seen_cpu, &seen_gpu);
    bool explained = p.at && p.margin <= tie;
    if (!p.at)
        printf("        %s: every choice of voxels and candidates is the same\n", name);
    else
        printf("        %s: first difference: %d of %d %s at %s, within %.2g by the CPU's scores\n", name,
               p.exchanged, p.at->count, p.order_only ? "in another order" : "picks exchanged", p.at->name,
               p.margin);
    if (explained && p.at->by_row) {
        found c = detect_seen(gpu, device, &seen_imposed);
        const agreement again = compare(&a, &c, score_apart);
        printf("        %s: with the CPU's voxels imposed: %d boxes, %d equal\n", name, c.count, again.equal);
        explained = all(&again, &a, &c);
        free(c.boxes);
    }
    forget(&seen_cpu);
    forget(&seen_gpu);
    forget(&seen_imposed);
    free(a.boxes);
    free(b.boxes);
    return explained;
}

static verdict compare_frame(side *cpu, side *gpu, const char *path, const char *layout)
{
    const int columns = sv_model_point_columns(cpu->model);
    sv_points points = {0};
    must(sv_points_read(cpu->c, path, layout, &points), path, sv_error_message(cpu->c));
    if (points.columns < columns) must(SV_BAD_INPUT, path, "fewer columns than the model takes");
    sv_frame *host = frame_of(SV_CPU, &points, columns), *device = frame_of(SV_CUDA, &points, columns);
    found a = detect(cpu, host), b = detect(gpu, device);
    const agreement first = compare(&a, &b, score_apart);
    verdict out = EQUAL;
    if (!all(&first, &a, &b)) {
        const agreement weak = compare(&a, &b, weak_score_apart);
        const bool explained = explain(cpu, gpu, host, device, last_part(path));
        out = all(&weak, &a, &b) ? OTHER_SCORES : explained ? DECIDED_BY_ROUNDING : DIFFERENT;
    }
    expect(
        out != DIFFERENT,
        "%s: %d points, %d voxels, %d boxes on the CPU, %d on the GPU, %d equal (geometry within %.1e, score "
        "within %.1e)",
        last_part(path), points.count, sv_detector_needed(gpu->detector, SV_CAP_VOXELS), a.count, b.count,
        first.equal, first.geometry, first.score);
    fflush(stdout);
    free(a.boxes);
    free(b.boxes);
    sv_frame_release(host);
    sv_frame_release(device);
    sv_points_free(&points);
    return out;
}

/* ---- files --------------------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_file(char **files, int *count, const char *folder, const char *name)
{
    const size_t room = strlen(folder) + strlen(name) + 2;
    if (*count == MOST_FILES) must(SV_USAGE, name, "too many frames");
    files[*count] = malloc(room);
    if (!files[*count]) exit(1);
    snprintf(files[(*count)++], room, "%s%s%s", folder, *folder ? "/" : "", name);
}

static int list_files(char **files, int inputs, char **input)
{
    int count = 0;
    for (int i = 0; i < inputs; i++) {
        struct stat info;
        if (stat(input[i], &info) != 0 || !S_ISDIR(info.st_mode)) {
            add_file(files, &count, "", input[i]);
            continue;
        }
        DIR *folder = opendir(input[i]);
        if (!folder) must(SV_IO, input[i], "cannot be read");
        const int first = count;
        for (const struct dirent *entry; (entry = readdir(folder));) {
            const char *dot = strrchr(entry->d_name, '.');
            if (dot && strcmp(dot, ".bin") == 0) add_file(files, &count, input[i], entry->d_name);
        }
        closedir(folder);
        qsort(files + first, (size_t)(count - first), sizeof *files, by_text);
    }
    return count;
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        printf("SKIPPED: usage: check_frames CONFIG WEIGHTS LAYOUT POINTS...\n");
        return 77;
    }
    const char *config = strcmp(argv[1], "-") == 0 ? NULL : argv[1];
    char *files[MOST_FILES];
    const int count = list_files(files, argc - 4, argv + 4);
    side gpu = open_side(SV_CUDA, SV_FP32, config, argv[2]),
         cpu = open_side(SV_CPU, SV_FP32, config, argv[2]);
    const char *layout = strcmp(argv[3], "-") == 0 ? sv_model_point_layout(gpu.model) : argv[3];
    int tally[VERDICTS] = {0};
    for (int i = 0; i < count; i++) {
        tally[compare_frame(&cpu, &gpu, files[i], layout)]++;
        free(files[i]);
    }
    printf("%s with %s: %d frames; boxes equal in %d, but for scores in %d, parted by a choice that rounding "
           "decides "
           "in %d, different in %d\n",
           sv_model_name(gpu.model), sv_model_operator(gpu.model), count, tally[EQUAL], tally[OTHER_SCORES],
           tally[DECIDED_BY_ROUNDING], tally[DIFFERENT]);
    close_side(&gpu);
    close_side(&cpu);
    return failures > 0 || count == 0;
}
