/* The HTTP/JSON API on the unix socket: docs/openapi.json is the contract. */
#ifndef COP_DAEMON_API_H
#define COP_DAEMON_API_H

#include "state.h"

struct cop_api;

/* Serves on a listening socket, which is taken. Main loop's thread. */
struct cop_api *cop_api_new(struct cop_state *state, int listen_fd, GError **error);
/* Waits for operations in progress. */
void cop_api_free(struct cop_api *api);
/* Operations in progress. */
unsigned cop_api_busy(struct cop_api *api);

#endif
