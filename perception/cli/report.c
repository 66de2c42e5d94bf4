/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "report.h"

#include "perception/core/file.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH = 4096, WIDEST = 1600, QUALITY = 82, CURVES_LIMIT = 1 << 26 };

void report_begin(report *r, const char *path, int samples)
{
    *r = (report){.path = path, .samples = samples};
}

void report_fact(report *r, const char *name, const char *format, ...)
{
    if (!r->path || r->fact_count == REPORT_FACTS) return;
    va_list args;
    va_start(args, format);
    vsnprintf(r->facts[r->fact_count].value, sizeof r->facts->value, format, args);
    va_end(args);
    r->facts[r->fact_count++].name = name;
}

void report_end(report *r)
{
    for (int i = 0; i < r->picture_count; i++) free(r->pictures[i].bytes);
    *r = (report){.path = NULL};
}

/* ---- pictures ----------------------------------------------------------------------------------------- */

/* The first of each twelfth. */
static bool shown(const report *r, int sample)
{
    const int number = r->picture_count;
    if (number == REPORT_PICTURES || number >= r->samples) return false;
    const int pictures = r->samples < REPORT_PICTURES ? r->samples : REPORT_PICTURES;
    return (int64_t)sample * pictures >= (int64_t)number * r->samples;
}

/* With its cameras, or without them where their pictures cannot be read. */
static sv_status read_sample(sv_ctx *c, report *r, const sv_dataset *dataset, const sv_evaluator *evaluator,
                             int sample, sv_sample *out)
{
    const unsigned parts = SV_READ_POINTS | SV_READ_LABELS | sv_evaluator_parts(evaluator);
    if (sv_dataset_read(c, dataset, sample, parts | SV_READ_IMAGES, out) == SV_OK) return SV_OK;
    if (!r->without_cameras) {
        char why[sizeof c->error.message];
        snprintf(why, sizeof why, "%s", sv_error_message(c));
        sv_log(c, SV_LOG_WARNING, "%s: its pictures are without cameras: %s", r->path, why);
    }
    r->without_cameras = true;
    sv_error_clear(c);
    return sv_dataset_read(c, dataset, sample, parts | SV_READ_CAMERAS, out);
}

static sv_status keep_picture(sv_ctx *c, report *r, const char *id, const sv_image *picture)
{
    sv_image smaller = {0};
    const sv_image *kept = picture;
    if (picture->width > WIDEST) {
        SV_TRY(sv_image_resize(c, picture, WIDEST, picture->height * WIDEST / picture->width, &smaller));
        kept = &smaller;
    }
    const int i = r->picture_count;
    r->pictures[i].jpeg = sv_image_has_jpeg();
    snprintf(r->pictures[i].id, sizeof r->pictures[i].id, "%s", id);
    const sv_status status =
        r->pictures[i].jpeg
            ? sv_image_pack_jpeg(c, kept, QUALITY, &r->pictures[i].bytes, &r->pictures[i].size)
            : sv_image_pack_png(c, kept, &r->pictures[i].bytes, &r->pictures[i].size);
    r->picture_count += status == SV_OK;
    sv_image_free(&smaller);
    return status;
}

sv_status report_sample(sv_ctx *c, report *r, const sv_dataset *dataset, const sv_evaluator *evaluator,
                        int sample, const sv_eval_result *result)
{
    if (!r->path || !shown(r, sample)) return SV_OK;
    sv_sample own = {0};
    sv_image picture = {0};
    sv_status status = read_sample(c, r, dataset, evaluator, sample, &own);
    if (status == SV_OK) status = sv_evaluator_picture(c, evaluator, &own, result, &picture);
    if (status == SV_OK) status = keep_picture(c, r, own.id, &picture);
    sv_image_free(&picture);
    sv_sample_free(&own);
    return status;
}

/* ---- the page ----------------------------------------------------------------------------------------- */

static void put_text(FILE *to, const char *text)
{
    for (const char *p = text; *p; p++) switch (*p) {
        case '<':
            fputs("&lt;", to);
            break;
        case '>':
            fputs("&gt;", to);
            break;
        case '&':
            fputs("&amp;", to);
            break;
        case '"':
            fputs("&quot;", to);
            break;
        default:
            fputc(*p, to);
        }
}

/* RFC 4648. */
static void put_base64(FILE *to, const void *bytes, size_t size)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = bytes;
    for (size_t i = 0; i < size; i += 3) {
        const unsigned three = (unsigned)p[i] << 16 | (i + 1 < size ? (unsigned)p[i + 1] << 8 : 0) |
                               (i + 2 < size ? p[i + 2] : 0u);
        const char four[5] = {letters[three >> 18], letters[three >> 12 & 63],
                              i + 1 < size ? letters[three >> 6 & 63] : '=',
                              i + 2 < size ? letters[three & 63] : '='};
        fputs(four, to);
    }
}

static void put_picture(FILE *to, const char *kind, const void *bytes, size_t size, const char *caption)
{
    fprintf(to, "<figure><img alt=\"");
    put_text(to, caption);
    fprintf(to, "\" src=\"data:image/%s;base64,", kind);
    put_base64(to, bytes, size);
    fputs("\"><figcaption>", to);
    put_text(to, caption);
    fputs("</figcaption></figure>\n", to);
}

/* The table as the command prints it. */
static sv_status put_table(sv_ctx *c, FILE *to, const sv_evaluator *e, bool self_check)
{
    char *text = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    SV_CHECK(c, memory, SV_NO_MEMORY, "no memory for the table of the report");
    if (self_check)
        sv_evaluator_self_check(e, memory);
    else
        sv_evaluator_print(e, memory);
    const bool good = fclose(memory) == 0 && text;
    if (good) {
        fputs("<pre>", to);
        put_text(to, text);
        fputs("</pre>\n", to);
    }
    free(text);
    SV_CHECK(c, good, SV_NO_MEMORY, "no memory for the table of the report");
    return SV_OK;
}

/* Curves are drawn into a file beside the report, which is read and removed. */
static sv_status put_curves(sv_ctx *c, FILE *to, const report *r, const sv_evaluator *e)
{
    char path[PATH];
    void *bytes = NULL;
    size_t size = 0;
    const int length = snprintf(path, sizeof path, "%s.%ld.png", r->path, (long)getpid());
    SV_CHECK(c, length < PATH, SV_USAGE, "%s: the path is too long", r->path);
    sv_status status = sv_evaluator_curves(c, e, path);
    if (status == SV_OK) status = sv_file_read(c, path, CURVES_LIMIT, &bytes, &size);
    unlink(path);
    if (status == SV_OK) put_picture(to, "png", bytes, size, "precision by recall");
    free(bytes);
    return status;
}

static const char style[] =
    ":root{color-scheme:light dark;--line:#8884;--soft:#8882}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2.2rem}"
    "pre{overflow-x:auto;background:var(--soft);padding:1rem;border-radius:6px;font-size:13px;line-height:1."
    "4}"
    "table{border-collapse:collapse}td,th{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px "
    "solid "
    "var(--line);font-weight:normal}th{opacity:.65}"
    "figure{margin:1rem 0}img{max-width:100%;border-radius:6px;background:#fff}"
    "figcaption{opacity:.65;font-size:13px}";

static sv_status put_page(sv_ctx *c, FILE *to, const report *r, const sv_dataset *dataset,
                          const sv_evaluator *e, bool self_check)
{
    fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" "
          "content=\"width=device-width,initial-scale=1\">\n<title>",
          to);
    put_text(to, sv_dataset_summary(dataset));
    fprintf(to, "</title>\n<style>%s</style></head>\n<body>\n<h1>", style);
    put_text(to, sv_dataset_summary(dataset));
    fputs("</h1>\n<table>\n", to);
    for (int i = 0; i < r->fact_count; i++) {
        fputs("<tr><th>", to);
        put_text(to, r->facts[i].name);
        fputs("</th><td>", to);
        put_text(to, r->facts[i].value);
        fputs("</td></tr>\n", to);
    }
    fputs("</table>\n<h2>Scores</h2>\n", to);
    SV_TRY(put_table(c, to, e, self_check));
    fputs("<h2>Curves</h2>\n", to);
    SV_TRY(put_curves(c, to, r, e));
    if (r->picture_count > 0) fputs("<h2>Samples</h2>\n", to);
    for (int i = 0; i < r->picture_count; i++)
        put_picture(to, r->pictures[i].jpeg ? "jpeg" : "png", r->pictures[i].bytes, r->pictures[i].size,
                    r->pictures[i].id);
    fputs("</body></html>\n", to);
    return SV_OK;
}

sv_status report_write(sv_ctx *c, const report *r, const sv_dataset *dataset, const sv_evaluator *evaluator,
                       bool self_check)
{
    if (!r->path) return SV_OK;
    sv_output output;
    SV_TRY(sv_output_open(c, &output, r->path));
    sv_status status = put_page(c, output.stream, r, dataset, evaluator, self_check);
    if (status == SV_OK) status = sv_output_commit(c, &output);
    sv_output_discard(&output);
    return status;
}
