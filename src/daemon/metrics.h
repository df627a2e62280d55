/* The figures of stats.h in Prometheus' text format. */
#ifndef COP_DAEMON_METRICS_H
#define COP_DAEMON_METRICS_H

#include <json-glib/json-glib.h>

/* From what cop_stats() gives; caller frees. Pure. */
char *cop_metrics_text(JsonObject *stats);

#endif
