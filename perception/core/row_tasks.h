/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows split into pool tasks by the size of the problem alone.
 */
#ifndef SV_ROW_TASKS_H
#define SV_ROW_TASKS_H

typedef struct sv_row_tasks {
    int rows, per_task, count;
} sv_row_tasks;

/* Tasks of about 'target' elements where a row costs 'row_elements'. */
static inline sv_row_tasks sv_split_rows(int rows, int row_elements, int target)
{
    const int per_task = 1 + target / (row_elements + 1);
    return (sv_row_tasks){rows, per_task, (rows + per_task - 1) / per_task};
}

static inline int sv_task_end(const sv_row_tasks *tasks, int task)
{
    const int end = (task + 1) * tasks->per_task;
    return end < tasks->rows ? end : tasks->rows;
}

#endif
