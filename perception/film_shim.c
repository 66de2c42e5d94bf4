/* SPDX-License-Identifier: Apache-2.0
 *
 * Films by FFmpeg's libraries (film_shim.h). A film is read from a local file in one of a few containers: playlists and
 * such, which name other files, are none. Colours become RGB by the stream's own matrix and range, at full size; a picture
 * with other sides than the first is an error. Films are written as H.264, or MPEG-4 where there is no such encoder.
 */
#include "film_shim.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>

#include <stdio.h>
#include <stdlib.h>

enum { MOST_PICTURES = 1 << 24 };
static const char containers[] = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv";

static int told(char *why, int error, const char *what)
{
    char text[AV_ERROR_MAX_STRING_SIZE] = "";
    if (error >= 0) return 0;
    av_strerror(error, text, sizeof text);
    snprintf(why, SV_FILM_WHY, "%s: %s", what, text);
    return 1;
}

/* ---- reading -------------------------------------------------------------------------------------------- */

typedef struct film {
    AVFormatContext *file;
    AVCodecContext *decoder;
    AVPacket *packet;
    AVFrame *frame;
    struct SwsContext *colours;
    int stream, width, height, format;
    int drained; /* the file is over, the decoder may not be */
} film;

static void film_close(void *user)
{
    film *f = user;
    if (!f) return;
    sws_freeContext(f->colours);
    av_frame_free(&f->frame);
    av_packet_free(&f->packet);
    avcodec_free_context(&f->decoder);
    avformat_close_input(&f->file);
    free(f);
}

static int open_file(film *f, const char *path, char *why)
{
    AVDictionary *options = NULL;
    av_dict_set(&options, "protocol_whitelist", "file", 0);
    av_dict_set(&options, "format_whitelist", containers, 0);
    const int status = avformat_open_input(&f->file, path, NULL, &options);
    av_dict_free(&options);
    if (told(why, status, "it is no film that can be read")) return 1;
    if (told(why, avformat_find_stream_info(f->file, NULL), "its streams cannot be found")) return 1;
    const AVCodec *codec = NULL;
    f->stream = av_find_best_stream(f->file, AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
    if (f->stream < 0 || !codec) {
        snprintf(why, SV_FILM_WHY, "%s",
                 f->stream < 0 ? "there are no pictures in it" : "there is no decoder for its pictures");
        return 1;
    }
    f->decoder = avcodec_alloc_context3(codec);
    if (!f->decoder) return told(why, AVERROR(ENOMEM), "decoder");
    const AVStream *stream = f->file->streams[f->stream];
    if (told(why, avcodec_parameters_to_context(f->decoder, stream->codecpar), "its pictures' parameters"))
        return 1;
    /* The same pictures for any number of processors; damage ends the film. */
    f->decoder->thread_count = 1;
    f->decoder->err_recognition = AV_EF_CRCCHECK | AV_EF_BITSTREAM | AV_EF_BUFFER | AV_EF_EXPLODE;
    return told(why, avcodec_open2(f->decoder, codec, NULL), "its decoder");
}

/* Pictures by what the container lists, else by looking through it. */
static int count_pictures(film *f, char *why, int *count)
{
    const AVStream *stream = f->file->streams[f->stream];
    int64_t found = stream->nb_frames;
    if (found <= 0) {
        int status = 0;
        for (found = 0; found <= MOST_PICTURES && (status = av_read_frame(f->file, f->packet)) >= 0;) {
            found += f->packet->stream_index == f->stream;
            av_packet_unref(f->packet);
        }
        if (status < 0 && status != AVERROR_EOF) return told(why, status, "it breaks off");
        if (told(why, av_seek_frame(f->file, f->stream, 0, AVSEEK_FLAG_BACKWARD), "it cannot be rewound"))
            return 1;
    }
    if (found < 1 || found > MOST_PICTURES) {
        snprintf(why, SV_FILM_WHY, "it announces %lld pictures", (long long)found);
        return 1;
    }
    *count = (int)found;
    return 0;
}

static int film_open(const char *path, int most_side, void **out, sv_film_facts *facts, char why[SV_FILM_WHY])
{
    film *f = calloc(1, sizeof *f);
    *out = NULL;
    av_log_set_level(AV_LOG_QUIET);
    if (!f) return told(why, AVERROR(ENOMEM), "film");
    f->format = AV_PIX_FMT_NONE;
    f->packet = av_packet_alloc();
    f->frame = av_frame_alloc();
    int failed = !f->packet || !f->frame ? told(why, AVERROR(ENOMEM), "film") : open_file(f, path, why);
    if (!failed) failed = count_pictures(f, why, &facts->count);
    if (!failed && (f->decoder->width < 1 || f->decoder->height < 1 || f->decoder->width > most_side ||
                    f->decoder->height > most_side)) {
        snprintf(why, SV_FILM_WHY, "its pictures have %d x %d pixels", f->decoder->width, f->decoder->height);
        failed = 1;
    }
    if (failed) {
        film_close(f);
        return 1;
    }
    const AVRational rate = f->file->streams[f->stream]->avg_frame_rate;
    facts->width = f->width = f->decoder->width;
    facts->height = f->height = f->decoder->height;
    facts->rate = rate.num > 0 && rate.den > 0 ? av_q2d(rate) : 0;
    *out = f;
    return 0;
}

/* The next picture in f->frame. */
static int decode(film *f, int *there, char *why)
{
    *there = 0;
    for (;;) {
        const int status = avcodec_receive_frame(f->decoder, f->frame);
        if (status == 0) {
            *there = 1;
            return 0;
        }
        if (status == AVERROR_EOF) return 0;
        if (status != AVERROR(EAGAIN)) return told(why, status, "a picture is damaged");
        if (f->drained) return 0;
        const int read = av_read_frame(f->file, f->packet);
        if (read == AVERROR_EOF) {
            f->drained = 1;
            if (told(why, avcodec_send_packet(f->decoder, NULL), "its end")) return 1;
            continue;
        }
        if (told(why, read, "it breaks off")) return 1;
        const int sent =
            f->packet->stream_index == f->stream ? avcodec_send_packet(f->decoder, f->packet) : 0;
        av_packet_unref(f->packet);
        if (told(why, sent, "a picture is damaged")) return 1;
    }
}

static int film_next(void *user, uint8_t *rgb, double *time, int *there, char why[SV_FILM_WHY])
{
    film *f = user;
    if (decode(f, there, why)) return 1;
    if (!*there) return 0;
    const AVFrame *frame = f->frame;
    if (frame->width != f->width || frame->height != f->height) {
        snprintf(why, SV_FILM_WHY, "a picture has %d x %d pixels, those before it %d x %d", frame->width,
                 frame->height, f->width, f->height);
        return 1;
    }
    if (!f->colours || frame->format != f->format) {
        const int flags = SWS_BILINEAR | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_BITEXACT;
        sws_freeContext(f->colours);
        f->format = frame->format;
        f->colours = sws_getContext(f->width, f->height, frame->format, f->width, f->height, AV_PIX_FMT_RGB24,
                                    flags, NULL, NULL, NULL);
        if (!f->colours) return told(why, AVERROR(ENOSYS), "its colours");
        const int *matrix = sws_getCoefficients(
            frame->colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_DEFAULT : (int)frame->colorspace);
        sws_setColorspaceDetails(f->colours, matrix, frame->color_range == AVCOL_RANGE_JPEG, matrix, 1, 0,
                                 1 << 16, 1 << 16);
    }
    uint8_t *const to[4] = {rgb};
    const int line[4] = {3 * f->width};
    if (told(why,
             sws_scale(f->colours, (const uint8_t *const *)frame->data, frame->linesize, 0, f->height, to,
                       line),
             "its colours"))
        return 1;
    *time = frame->best_effort_timestamp == AV_NOPTS_VALUE
                ? 0
                : (double)frame->best_effort_timestamp * av_q2d(f->file->streams[f->stream]->time_base);
    av_frame_unref(f->frame);
    return 0;
}

/* ---- writing -------------------------------------------------------------------------------------------- */

typedef struct writer {
    AVFormatContext *file;
    AVCodecContext *encoder;
    AVStream *stream;
    AVPacket *packet;
    AVFrame *frame;
    struct SwsContext *colours;
    int64_t count;
} writer;

static void writer_discard(void *user)
{
    writer *w = user;
    if (!w) return;
    sws_freeContext(w->colours);
    av_frame_free(&w->frame);
    av_packet_free(&w->packet);
    avcodec_free_context(&w->encoder);
    if (w->file) avio_closep(&w->file->pb);
    avformat_free_context(w->file);
    free(w);
}

static int open_encoder(writer *w, int width, int height, int rate, char *why)
{
    static const char *const names[] = {"libx264", "libopenh264", "mpeg4"};
    const AVCodec *codec = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !codec; i++)
        codec = avcodec_find_encoder_by_name(names[i]);
    w->encoder = codec ? avcodec_alloc_context3(codec) : NULL;
    if (!w->encoder) return told(why, AVERROR_ENCODER_NOT_FOUND, "H.264 or MPEG-4");
    AVCodecContext *e = w->encoder;
    e->width = width;
    e->height = height;
    e->time_base = (AVRational){1, rate};
    e->framerate = (AVRational){rate, 1};
    e->pix_fmt = AV_PIX_FMT_YUV420P;
    e->gop_size = 12;
    e->thread_count = 1; /* the same bytes for any number of processors */
    e->flags |= AV_CODEC_FLAG_BITEXACT | AV_CODEC_FLAG_GLOBAL_HEADER;
    e->bit_rate = (int64_t)width * height * rate / 2;
    /* libx264 weighs blocks by what refers to them with vector code whose result depends on what memory held before: with it,
     * two films of the same pictures could differ. Encoders that do not know the option have none of it. */
    av_opt_set(e->priv_data, "mbtree", "0", 0);
    /* A constant quality instead, where the encoder knows it. */
    if (av_opt_set(e->priv_data, "crf", "16", 0) >= 0) e->bit_rate = 0;
    return told(why, avcodec_open2(e, codec, NULL), codec->name);
}

static int open_output(writer *w, const char *path, int rate, char *why)
{
    if (told(why, avformat_alloc_output_context2(&w->file, NULL, "mp4", path), "mp4")) return 1;
    w->file->flags |= AVFMT_FLAG_BITEXACT;
    w->stream = avformat_new_stream(w->file, NULL);
    if (!w->stream) return told(why, AVERROR(ENOMEM), "film");
    w->stream->time_base = (AVRational){1, rate};
    if (told(why, avcodec_parameters_from_context(w->stream->codecpar, w->encoder), "its parameters"))
        return 1;
    if (told(why, avio_open(&w->file->pb, path, AVIO_FLAG_WRITE), "it cannot be written")) return 1;
    return told(why, avformat_write_header(w->file, NULL), "it cannot be written");
}

static int writer_create(const char *path, int width, int height, int rate, void **out, char why[SV_FILM_WHY])
{
    writer *w = calloc(1, sizeof *w);
    *out = NULL;
    av_log_set_level(AV_LOG_QUIET);
    if (!w) return told(why, AVERROR(ENOMEM), "film");
    int failed = open_encoder(w, width, height, rate, why) || open_output(w, path, rate, why);
    if (!failed) {
        w->packet = av_packet_alloc();
        w->frame = av_frame_alloc();
        w->colours = sws_getContext(width, height, AV_PIX_FMT_RGB24, width, height, AV_PIX_FMT_YUV420P,
                                    SWS_BILINEAR | SWS_ACCURATE_RND | SWS_BITEXACT, NULL, NULL, NULL);
        if (!w->packet || !w->frame || !w->colours) failed = told(why, AVERROR(ENOMEM), "film");
    }
    if (!failed) {
        w->frame->width = width;
        w->frame->height = height;
        w->frame->format = AV_PIX_FMT_YUV420P;
        failed = told(why, av_frame_get_buffer(w->frame, 0), "film");
    }
    if (failed)
        writer_discard(w);
    else
        *out = w;
    return failed;
}

/* NULL: there are no more. */
static int encode(writer *w, const AVFrame *frame, char *why)
{
    if (told(why, avcodec_send_frame(w->encoder, frame), "a picture cannot be encoded")) return 1;
    for (;;) {
        const int status = avcodec_receive_packet(w->encoder, w->packet);
        if (status == AVERROR(EAGAIN) || status == AVERROR_EOF) return 0;
        if (told(why, status, "a picture cannot be encoded")) return 1;
        w->packet->duration = 1; /* else the index leaves the last picture out */
        av_packet_rescale_ts(w->packet, w->encoder->time_base, w->stream->time_base);
        w->packet->stream_index = w->stream->index;
        if (told(why, av_interleaved_write_frame(w->file, w->packet), "it cannot be written")) return 1;
    }
}

static int writer_add(void *user, const uint8_t *rgb, char why[SV_FILM_WHY])
{
    writer *w = user;
    const uint8_t *const from[4] = {rgb};
    const int line[4] = {3 * w->encoder->width};
    if (told(why, av_frame_make_writable(w->frame), "film")) return 1;
    sws_scale(w->colours, from, line, 0, w->encoder->height, w->frame->data, w->frame->linesize);
    w->frame->pts = w->count++;
    return encode(w, w->frame, why);
}

static int writer_finish(void *user, char why[SV_FILM_WHY])
{
    writer *w = user;
    if (encode(w, NULL, why)) return 1;
    if (told(why, av_write_trailer(w->file), "it cannot be written")) return 1;
    const int status = avio_closep(&w->file->pb);
    return told(why, status, "it cannot be written");
}

const sv_film_shim *sv_film_shim_table(void)
{
    static const sv_film_shim table = {.version = AV_STRINGIFY(LIBAVFORMAT_VERSION_MAJOR),
                                       .open = film_open,
                                       .next = film_next,
                                       .close = film_close,
                                       .create = writer_create,
                                       .add = writer_add,
                                       .finish = writer_finish,
                                       .discard = writer_discard};
    return &table;
}
