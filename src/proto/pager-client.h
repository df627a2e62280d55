/* SPDX-License-Identifier: MIT */
/*
 * pager-client.h: the daemon's side of the pager's socket.
 *
 * One thread at a time may use a client; make as many as you like. A call blocks until answered or
 * @timeout_ms after it began. No call raises SIGPIPE. After any failure that is not an error answer
 * of the pager (time-out, broken connection, nonsense) the client is closed for good: the next call
 * gives -ENOTCONN. Requests may be repeated, so make a new client and ask again.
 */
#ifndef COP_PROTO_PAGER_CLIENT_H
#define COP_PROTO_PAGER_CLIENT_H

#include "base/error.h"
#include "proto/pager.h"

#include <stdbool.h>
#include <stddef.h>

struct cop_pager_client;

/*
 * Connect to the pager that listens at @path, and say hello. *@ret_pid (may be NULL): its process.
 * 0 and *@ret_client, or -errno: -ENOENT and -ECONNREFUSED when nobody is there, -EPROTONOSUPPORT
 * when it is one of another version, -ETIMEDOUT.
 */
int cop_pager_client_new(const char *path, unsigned int timeout_ms,
			 struct cop_pager_client **ret_client, int *ret_pid,
			 struct cop_error *err);

/* @client may be NULL. */
void cop_pager_client_free(struct cop_pager_client *client);

/* Readable when the pager has hung up (or talks nonsense); -1 once closed. Stays the client's. */
int cop_pager_client_fd(const struct cop_pager_client *client);

/* Was the last failure one of the connection, not an answer? */
bool cop_pager_client_is_broken(const struct cop_pager_client *client);

/*
 * Send @request, whose magic, version and id are filled in here, with @nr_fds descriptors, which
 * stay the caller's, and wait for its answer. @ret_answer (may be NULL) is filled whatever status
 * it has. Returns the answer's status, or -errno with the client closed.
 */
int cop_pager_client_call(struct cop_pager_client *client, const struct cop_pager_request *request,
			  const int *fds, size_t nr_fds, unsigned int timeout_ms,
			  struct cop_pager_answer *ret_answer, struct cop_error *err);

/* A request's name, for messages. */
const char *cop_pager_client_word(unsigned int type);

#endif
