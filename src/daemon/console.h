/* A VM's serial console: the daemon holds the one connection that QEMU takes, keeps what was printed
 * lately, and serves any number of viewers over WebSocket.
 *
 * Created from any thread; all else happens on the main loop's thread.
 */
#ifndef COP_DAEMON_CONSOLE_H
#define COP_DAEMON_CONSOLE_H

#include <libsoup/soup.h>

struct cop_console;

/* Connects in the background to QEMU's chardev socket. */
struct cop_console *cop_console_new(const char *path);
struct cop_console *cop_console_ref(struct cop_console *console);
void cop_console_unref(struct cop_console *console);
/* Ends the connection and closes the viewers. Any thread; NULL is fine. */
void cop_console_close(struct cop_console *console);
/* Adds a viewer: it gets what is kept, then what comes. Main loop's thread. */
void cop_console_add(struct cop_console *console, SoupWebsocketConnection *ws);

#endif
