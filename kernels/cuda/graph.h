/* Recorded sequences of operations, see graph.cu. */
#ifndef TUNEFLEET_CUDA_GRAPH_H
#define TUNEFLEET_CUDA_GRAPH_H

#include "queue.h"

namespace tf {

struct Graphs;

/* What TUNEFLEET_CUDA_GRAPHS says; kBadChoice for a word that it may not be. */
enum GraphChoice { kGraphsOff, kGraphsAuto, kGraphsOn, kBadChoice };
GraphChoice graph_choice();

/* NULL when the choice is off. */
Graphs *open_graphs(GraphChoice);
void close_graphs(Graphs *);
/* Forgets all sequences: what their graphs read is no longer where it was. Nothing is held back, and nothing runs. */
void drop_graphs(Graphs *);
void count_graphs(const Graphs *, tf_graph_counts *);

/* Whether the operation was taken, to be run at the next settle; params are copied. One that is not taken has to be run at once, after what
 * was held back, whose status is in st. */
bool take(tf_queue *q, int32_t op, const void *params, tf_status *st);
/* Runs what was held back. */
tf_status settle_graphs(tf_queue *q);
inline tf_status settle(tf_queue *q) { return q->graphs ? settle_graphs(q) : q->st; }

/* Runs an operation now (backend.cu). */
tf_status run_now(tf_queue *q, int32_t op, const void *params);

}  // namespace tf

#endif
