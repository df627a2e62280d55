/* SPDX-License-Identifier: MIT */
/* console.h: standard input and output joined to the WebSocket of a VM's serial port. */
#ifndef COP_CLI_CONSOLE_H
#define COP_CLI_CONSOLE_H

#include <libsoup/soup.h>

struct cop_console_wish {
	const char *vm;	   /* its name, for the greeting on a terminal */
	int key;	   /* byte that leaves, typed on a terminal; -1: none */
	const char *until; /* leave when this was printed and all input was sent; or NULL */
	guint timeout_s;   /* leave after this time; 0: never */
	gboolean collect;  /* keep the output instead of writing it; a terminal is then not read */
};

struct cop_console_end {
	gboolean found;		/* the text of wish.until was printed */
	gboolean timed_out;	/* wish.timeout_s is over */
	gboolean left;		/* this side ended it */
	gboolean lost;		/* the connection broke */
	gboolean output_failed; /* standard output takes no more */
	gboolean terminal;	/* standard input was a terminal, and read */
	char *reason;		/* the far side's words when it ended it, or NULL */
	char *output;		/* the last MiB of it with wish.collect, valid UTF-8, or NULL */
};

/*
 * Join until one side ends it. A terminal at standard input is raw meanwhile. Runs the default main
 * context. Returns 0 and fills *@ret_end, for cop_console_end_clear(); or -errno when the terminal
 * can't be set.
 */
int cop_console_join(SoupWebsocketConnection *ws, const struct cop_console_wish *wish,
		     struct cop_console_end *ret_end);
void cop_console_end_clear(struct cop_console_end *end);

#endif
