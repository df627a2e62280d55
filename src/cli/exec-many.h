/* SPDX-License-Identifier: MIT */
/* exec-many.h: one command in many VMs side by side, output labelled with the VM's name. */
#ifndef COP_CLI_EXEC_MANY_H
#define COP_CLI_EXEC_MANY_H

#include "cli/cli.h"

/* Splits output into lines; each whole one (or piece, when it is very long) is given to write. */
struct cop_lines;
struct cop_lines *cop_lines_new(void (*write)(const guint8 *line, gsize len_bytes, void *user), void *user);
void cop_lines_feed(struct cop_lines *lines, const guint8 *data, gsize len_bytes);
/* What is left without a newline. */
void cop_lines_flush(struct cop_lines *lines);
void cop_lines_free(struct cop_lines *lines);

/*
 * Run @request (an ExecRequest) in each of @names, at most 32 at once. Lines of output get the VM's
 * name in front; a command that fails is told on standard error. With --json one document:
 * {"results": [{"name", "exit", "signal", "stdout", "stderr", "truncated", "error"}, ...]}, of each
 * stream the last 1 MiB. Returns COP_EXIT_FAILED when one failed.
 */
int cop_exec_many(struct cop_cli *cli, char *const *names, JsonObject *request, GError **error);

#endif
