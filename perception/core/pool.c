/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct worker {
    sv_pool *pool;
    int number;
    pthread_t thread;
} worker;

struct sv_pool {
    int threads; /* workers and the caller */
    worker *workers;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    sv_task_fn fn;
    void *arg;
    int tasks;
    atomic_int next; /* first task not yet taken */
    atomic_int call; /* number of the current sv_pool_run(), so that a worker runs each once */
    atomic_int busy; /* workers that have not finished the current call */
    bool closing;
};

/* Workers look for the next call, and the caller for the end of their tasks, this often before they sleep: a frame has
 * hundreds of short calls. */
enum { SPINS = 2000 };

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void run_tasks(sv_pool *pool, int number)
{
    for (;;) {
        const int task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (task >= pool->tasks) return;
        pool->fn(pool->arg, task, number);
    }
}

static void *work(void *arg)
{
    worker *self = arg;
    sv_pool *pool = self->pool;
    int seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && atomic_load_explicit(&pool->call, memory_order_acquire) == seen; i++)
            pause_briefly();
        pthread_mutex_lock(&pool->lock);
        while (atomic_load_explicit(&pool->call, memory_order_relaxed) == seen && !pool->closing)
            pthread_cond_wait(&pool->work, &pool->lock);
        if (pool->closing) {
            pthread_mutex_unlock(&pool->lock);
            return NULL;
        }
        seen = atomic_load_explicit(&pool->call, memory_order_relaxed);
        pthread_mutex_unlock(&pool->lock);
        run_tasks(pool, self->number);
        if (atomic_fetch_sub_explicit(&pool->busy, 1, memory_order_acq_rel) > 1) continue;
        pthread_mutex_lock(&pool->lock);
        pthread_cond_signal(&pool->done);
        pthread_mutex_unlock(&pool->lock);
    }
}

static int usable_threads(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

sv_pool *sv_pool_open(int threads)
{
    sv_pool *pool = calloc(1, sizeof *pool);
    if (!pool) return NULL;
    pool->threads = threads > 0 ? threads : usable_threads();
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->workers = calloc((size_t)pool->threads, sizeof *pool->workers);
    int started = 0;
    for (int i = 0; pool->workers && i < pool->threads - 1; i++, started++) {
        pool->workers[i] = (worker){.pool = pool, .number = i + 1};
        if (pthread_create(&pool->workers[i].thread, NULL, work, &pool->workers[i]) != 0) break;
    }
    if (!pool->workers || started < pool->threads - 1) {
        pool->threads = started + 1;
        sv_pool_close(pool);
        return NULL;
    }
    return pool;
}

void sv_pool_close(sv_pool *pool)
{
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    atomic_fetch_add(&pool->call, 1);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->threads - 1; i++) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool);
}

int sv_pool_threads(const sv_pool *pool)
{
    return pool->threads;
}

void sv_pool_run(sv_pool *pool, sv_task_fn fn, void *arg, int tasks)
{
    if (pool->threads == 1 || tasks <= 1) {
        for (int task = 0; task < tasks; task++) fn(arg, task, 0);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->fn = fn;
    pool->arg = arg;
    pool->tasks = tasks;
    atomic_store_explicit(&pool->busy, pool->threads - 1, memory_order_relaxed);
    atomic_store(&pool->next, 0);
    atomic_fetch_add_explicit(&pool->call, 1, memory_order_release);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    run_tasks(pool, 0);
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&pool->busy, memory_order_acquire) == 0) return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load_explicit(&pool->busy, memory_order_acquire) > 0)
        pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}
