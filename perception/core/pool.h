/* SPDX-License-Identifier: Apache-2.0
 *
 * The one thread pool. Work is a number of tasks; threads take the next task
 * number from a counter. Tasks must write disjoint memory and must not depend
 * on which thread runs them: then the bytes are the same for any thread count.
 * Split work by problem size, never by thread count.
 *
 * threads == 1 runs inline. A task may not call sv_pool_run() itself.
 */
#ifndef SV_POOL_H
#define SV_POOL_H

#include "status.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sv_pool sv_pool;

/* 'task' 0..tasks-1; 'worker' 0..threads-1 names the running thread, for per-thread workspaces. */
typedef void (*sv_task_fn)(void *arg, int task, int worker);

/* threads <= 0: as many as the process may use. Returns NULL only when memory or threads run out. */
sv_pool *sv_pool_open(int threads);
void sv_pool_close(sv_pool *pool); /* NULL is fine */
int sv_pool_threads(const sv_pool *pool);
void sv_pool_run(sv_pool *pool, sv_task_fn fn, void *arg, int tasks);

#ifdef __cplusplus
}
#endif

#endif
