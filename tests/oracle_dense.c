/* SPDX-License-Identifier: Apache-2.0 */
#include "oracle_dense.h"

#include <math.h>

static double f(sv_tensor t, int row, int column)
{
    return (double)sv_f32(t)[(int64_t)row * t.pitch + column];
}
static int at(sv_tensor t, int row)
{
    return sv_i32(t)[(int64_t)row * t.pitch];
}

double oracle_map(sv_map map, double a, double b)
{
    switch (map) {
    case SV_MAP_identity:
        return a;
    case SV_MAP_add:
        return a + b;
    case SV_MAP_add_relu:
        return a + b < 0 ? 0 : a + b;
    case SV_MAP_mul:
        return a * b;
    case SV_MAP_relu:
        return a < 0 ? 0 : a;
    case SV_MAP_sigmoid:
        return 1 / (1 + exp(-a));
    case SV_MAP_silu:
        return a / (1 + exp(-a));
    case SV_MAP_gelu:
        return a * 0.5 * erfc(-a / sqrt(2.0));
    case SV_MAP_softplus:
        return a > 20 ? a : log1p(exp(a));
    case SV_MAP_tanh:
        return tanh(a);
    case SV_MAP_exp:
        return exp(a);
    case SV_MAP_mul_silu:
        return a * b / (1 + exp(-b));
    case SV_MAP_relu_square:
        return a < 0 ? 0 : a * a;
    case SV_MAP_neg_exp:
        return -exp(a);
    case SV_MAP_sub:
        return a - b;
    case SV_MAP_log_sigmoid:
        return -log1p(exp(-a));
    case SV_MAP_elu_one:
        return a > 0 ? a + 1 : exp(a);
    case SV_MAP_elu:
        return a > 0 ? a : expm1(a);
    case SV_MAP_one_minus_exp:
        return 1 - exp(a);
    case SV_MAP_one_minus:
        return 1 - a;
    case SV_MAP_min_gru:
        return a >= 0 ? a + 0.5 : 1 / (1 + exp(-a));
    case SV_MAP_square:
        return a * a;
    case SV_MAP_power:
        return pow(fmax(a, (double)1e-38f), b);
    case SV_MAP_mul_sigmoid:
        return a / (1 + exp(-b));
    case SV_MAP_neg_mul:
        return -a * b;
    case SV_MAP_div:
        return a / b;
    case SV_MAP_gelu_tanh:
        return 0.5 * a * (1 + tanh(sqrt(2 / acos(-1.0)) * (a + 0.044715 * a * a * a)));
    case SV_MAP_sin:
        return sin(a);
    case SV_MAP_cos:
        return cos(a);
    default:
        return NAN;
    }
}

void oracle_linear(double *y, int rows, sv_tensor x, sv_tensor index, sv_tensor w, sv_tensor bias, sv_map map)
{
    const int n = w.dim[0], k = w.dim[1];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < n; j++) {
            double sum = sv_is_none(bias) ? 0 : (double)sv_f32(bias)[j];
            const int row = sv_is_none(index) ? i : at(index, i);
            for (int p = 0; p < k && row >= 0; p++) sum += f(x, row, p) * f(w, j, p);
            y[(int64_t)i * n + j] = oracle_map(map, sum, 0);
        }
}

void oracle_norm(double *y, int rows, sv_tensor x, sv_tensor weight, sv_tensor bias, double eps, sv_map map,
                 sv_tensor residual)
{
    const int n = x.dim[1];
    for (int i = 0; i < rows; i++) {
        double mean = 0, variance = 0;
        for (int j = 0; j < n; j++) mean += f(x, i, j) / n;
        for (int j = 0; j < n; j++) variance += (f(x, i, j) - mean) * (f(x, i, j) - mean) / n;
        for (int j = 0; j < n; j++) {
            const double unit = (f(x, i, j) - mean) / sqrt(variance + eps);
            const double a = unit * (double)sv_f32(weight)[j] + (double)sv_f32(bias)[j];
            y[(int64_t)i * n + j] = oracle_map(map, a, 0) + (sv_is_none(residual) ? 0 : f(residual, i, j));
        }
    }
}

void oracle_gather(double *y, int rows, sv_tensor x, sv_tensor index, sv_tensor base)
{
    const int n = x.dim[1];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < n; j++)
            y[(int64_t)i * n + j] =
                (at(index, i) < 0 ? 0 : f(x, at(index, i), j)) + (sv_is_none(base) ? 0 : f(base, i, j));
}

void oracle_segments(double *y, int segments, sv_tensor x, sv_tensor start, sv_tensor rows, bool maximum)
{
    const int n = x.dim[1];
    for (int s = 0; s < segments; s++)
        for (int c = 0; c < n; c++) {
            double r = 0;
            for (int j = at(start, s); j < at(start, s + 1); j++) {
                const double v = f(x, sv_is_none(rows) ? j : at(rows, j), c);
                if (!maximum)
                    r += v;
                else if (j == at(start, s) || v > r)
                    r = v;
            }
            y[(int64_t)s * n + c] = r;
        }
}

void oracle_row_mean(double *y, int rows, sv_tensor x)
{
    for (int i = 0; i < rows; i++) {
        long double sum = 0;
        for (int j = 0; j < x.dim[1]; j++) sum += (long double)f(x, i, j);
        y[i] = (double)(sum / x.dim[1]);
    }
}
