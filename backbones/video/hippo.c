/* SPDX-License-Identifier: Apache-2.0
 *
 * The spectrum with which a state space model begins (Gu et al., "HiPPO"; Smith et al., "Simplified State Space Layers"):
 * the HiPPO-LegS matrix is -1/2 I + K minus a matrix of rank one, K skew-symmetric with
 *
 *     K[n][k] = -1/2 sqrt((2n+1)(2k+1)) for n > k
 *
 * so its normal part has eigenvalues -1/2 +- i s with s the singular values of K, which come in pairs. They are found by
 * one-sided Jacobi rotations (Hestenes): columns are turned against each other until all are orthogonal; their lengths are s.
 * That keeps small values accurate beside large ones.
 */
#include "convs5.h"

#include <math.h>
#include <stdlib.h>

enum { SWEEPS = 60, LARGEST = 1 << 10 };

/* Turn columns p and q of n numbers; whether they were not orthogonal yet. */
static bool rotate(double *p, double *q, int n)
{
    double pp = 0, qq = 0, pq = 0;
    for (int i = 0; i < n; i++) {
        pp += p[i] * p[i];
        qq += q[i] * q[i];
        pq += p[i] * q[i];
    }
    if (fabs(pq) <= 1e-15 * sqrt(pp * qq)) return false;
    const double zeta = (qq - pp) / (2 * pq);
    const double t = (zeta < 0 ? -1 : 1) / (fabs(zeta) + sqrt(1 + zeta * zeta));
    const double cosine = 1 / sqrt(1 + t * t), sine = cosine * t;
    for (int i = 0; i < n; i++) {
        const double a = p[i], b = q[i];
        p[i] = cosine * a - sine * b;
        q[i] = sine * a + cosine * b;
    }
    return true;
}

static int descending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

sv_status sv_convs5_hippo(sv_ctx *c, int states, int blocks, double *imaginary)
{
    SV_CHECK(c, blocks >= 1 && states >= 1 && states % blocks == 0 && states / blocks <= LARGEST,
             SV_BAD_INPUT, "ConvS5: %d states in %d blocks have no HiPPO spectrum", states, blocks);
    const int half = states / blocks, n = 2 * half;
    double *k = malloc(sizeof *k * (size_t)n * (size_t)n), *lengths = malloc(sizeof *lengths * (size_t)n);
    if (!k || !lengths) {
        free(k);
        free(lengths);
        return SV_FAIL(c, SV_NO_MEMORY, "no memory for a spectrum of %d", n);
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            k[i * n + j] = (i == j ? 0 : i > j ? -0.5 : 0.5) * sqrt((2.0 * i + 1) * (2.0 * j + 1));
    bool turned = true;
    for (int sweep = 0; turned && sweep < SWEEPS; sweep++) {
        turned = false;
        for (int p = 0; p < n; p++)
            for (int q = p + 1; q < n; q++)
                if (rotate(k + (size_t)p * (size_t)n, k + (size_t)q * (size_t)n, n)) turned = true;
    }
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int j = 0; j < n; j++) sum += k[i * n + j] * k[i * n + j];
        lengths[i] = sqrt(sum);
    }
    qsort(lengths, (size_t)n, sizeof *lengths, descending);
    for (int i = 0; i < states; i++) imaginary[i] = -lengths[2 * (i % half)];
    free(k);
    free(lengths);
    SV_CHECK(c, !turned, SV_INTERNAL, "the spectrum of %d states did not settle", states);
    return SV_OK;
}
