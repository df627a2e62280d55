/* SPDX-License-Identifier: MIT */
/*
 * terminal.h: the terminal at standard input in raw mode, and surely back again.
 *
 * It is restored by cop_terminal_restore(), and by every signal that ends the process
 * before it does. Being stopped (SIGTSTP) restores it too; going on makes it raw again.
 */
#ifndef COP_CLI_TERMINAL_H
#define COP_CLI_TERMINAL_H

#include <glib.h>

/*
 * When standard input is a terminal, make it raw: keys arrive one by one, none makes a signal, none
 * is echoed; output goes as it is. Returns 0, 1 when it is no terminal (nothing is changed), or
 * -errno.
 */
int cop_terminal_make_raw(void);

/* Put the terminal back as it was. Does nothing when it is not raw. */
void cop_terminal_restore(void);

#endif
