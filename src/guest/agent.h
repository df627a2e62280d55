/* The agent in a guest: what its files share. docs/formats/agent.md is the protocol.
 *
 * Purpose: obeys the host that this machine runs on. One thread, one epoll loop; what may block (a
 * clone's steps, freezing file systems) is done by a child of its own that reports back.
 * Files: agent-main.c the options and the loop; agent-port.c the port's bytes; agent-session.c frames;
 * agent-exec.c commands; agent-identity.c and agent-step-*.c what a clone does to know itself;
 * agent-run.c programs with a time limit; agent-vars.c COPPICE_*; agent-quiesce.c file systems at
 * rest; agent-hold.c programs at rest; agent-limit.c what a command may use; agent-local.c requests
 * from inside; agent-client.c the other end of those.
 * Invariants:
 *   1. Memory is bounded: one queue for the host, a window of input for each of at most 256 commands.
 *   2. While file systems are frozen the agent writes nothing but to the port: no log, no file.
 *   3. All state of a session is gone when the next one begins, but who waits for a clone's identity.
 */
#ifndef COP_GUEST_AGENT_H
#define COP_GUEST_AGENT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/types.h>

#include "proto/agent.h"

#define AGENT_VERSION "0.1.0"
#define AGENT_OUT_MAX (512u * 1024) /* queued for the host */
#define AGENT_OUT_DATA (192u * 1024) /* beyond that no output is read from commands, ... */
#define AGENT_OUT_STOP (320u * 1024) /* ... and beyond that nothing from the host */

/* A descriptor in the loop. fn may close it and others: their memory lives until the round ends. */
struct agent_watch {
	int fd; /* -1: none */
	uint32_t events;
	void (*fn)(struct agent_watch *watch, uint32_t events);
};

struct agent {
	/* options */
	const char *port_path; /* NULL: by its name */
	const char *root;      /* "" or a directory that stands for / */
	bool tame;	       /* with --root: nothing that reaches beyond the directory */
	bool namespaced;       /* but the host's name and network are its own */

	int epoll_fd;
	struct agent_watch port, signals, local;
	bool port_is_socket;
	int64_t port_retry_us; /* when to look at the port again */
	struct cop_agent_rx rx;
	uint8_t out[AGENT_OUT_MAX];
	uint32_t out_at, out_len; /* bytes [out_at, out_len) of out are to be sent */
	uint8_t frame[COP_AGENT_FRAME_MAX]; /* where frames are put together */
	const char *store[COP_AGENT_MAX_STRINGS];
	uint64_t session; /* 0: none */
	bool stopping;
};

extern struct agent agent; /* the one state of a program that is one thing */

/* agent-main.c */
int64_t agent_now_us(void); /* CLOCK_MONOTONIC */
/* Adds, changes, or with no events removes. */
void agent_watch_set(struct agent_watch *watch, uint32_t events);
void agent_watch_close(struct agent_watch *watch);
void agent_free_later(void *memory); /* at the end of the round */
void agent_log(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The earlier of two times; negative: never. */
int64_t agent_sooner(int64_t a_us, int64_t b_us);
/* The path below --root, in one of four buffers in turn. */
const char *agent_path(const char *path);
/* In a child of the agent: gives back all that a child should not have. */
void agent_become_child(void);
/* Before execve: whoever started the agent may have had some ignored. */
void agent_default_signals(void);

/* agent-port.c */
void agent_port_open(void);
void agent_port_tick(int64_t now_us);
/* Sends what an encoder has made in agent.frame; a negative length is an error that is logged. */
void agent_send(ssize_t len);
void agent_send_bytes(const void *data, size_t len);
bool agent_port_room(void); /* may more output be read? */
void agent_port_drop(void); /* forget what is queued */

/* agent-session.c */
void agent_session_frame(const struct cop_agent_frame *f);
void agent_session_end(const char *why);
void agent_send_error(uint32_t id, int error, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* agent-exec.c */
void agent_exec_start(uint32_t id, const struct cop_agent_exec *m);
/* false: more than its credit. */
bool agent_exec_input(uint32_t id, const uint8_t *data, size_t len);
void agent_exec_eof(uint32_t id);
void agent_exec_credit(uint32_t id, uint8_t stream, uint32_t bytes);
void agent_exec_signal(uint32_t id, int number);
void agent_exec_resize(uint32_t id, uint16_t rows, uint16_t columns);
void agent_exec_abandon(uint32_t id);
void agent_exec_reaped(pid_t pid, int status);
/* A new session. Kills all, without a word; in a clone they go on with nobody at their other end. */
void agent_exec_reset(bool is_clone);
void agent_exec_resume(void); /* the queue has room again */
/* Returns when to come again, or -1. */
int64_t agent_exec_tick(int64_t now_us);

/* agent-limit.c: a group for a command that is to be bounded; 0 or -errno. */
struct agent_limit {
	unsigned number;
	char path[128]; /* "": no bounds */
};
int agent_limit_make(struct agent_limit *limit, const struct cop_agent_exec *m);
/* In the command's process, as root: 0 or -errno. */
int agent_limit_enter(const struct agent_limit *limit);
void agent_limit_remove(struct agent_limit *limit);

/* agent-identity.c */
void agent_identify(const struct cop_agent_frame *f);
void agent_identity_reset(void);
/* The last IDENTIFY, its lists in agent.store; false: there was none. */
bool agent_identity_get(struct cop_agent_identify *ret);

struct agent_report {
	struct cop_agent_identified m;
	char names[COP_AGENT_MAX_STEPS][72];
	char texts[COP_AGENT_MAX_STEPS][COP_AGENT_MAX_TEXT + 1];
	int64_t step_us; /* when the step at hand began */
};
/* Adds a step. */
void agent_report(struct agent_report *r, const char *name, enum cop_agent_result result,
		  const char *fmt, ...) __attribute__((format(printf, 4, 5)));

struct agent_vars;

/* COP_AGENT_RANDOM bytes into the kernel's generator, to be in use at once. 0 or -errno. */
int agent_random_mix(const uint8_t *bytes);
/* agent-step-*.c; all within the child */
void agent_step_clock(struct agent_report *r, const struct cop_agent_identify *m, int64_t came_us);
void agent_step_random(struct agent_report *r, const struct cop_agent_identify *m);
void agent_step_hostname(struct agent_report *r, const struct cop_agent_identify *m);
void agent_step_machine_id(struct agent_report *r, const struct cop_agent_identify *m);
void agent_step_network(struct agent_report *r, const struct cop_agent_identify *m);
void agent_step_ssh_keys(struct agent_report *r, const struct cop_agent_identify *m);
void agent_step_generation(struct agent_report *r, const struct cop_agent_identify *m);
void agent_step_hooks(struct agent_report *r, const struct cop_agent_identify *m);
/* Replaces a file at once, or writes over it where it can't be replaced. 0 or -errno. */
int agent_file_write(const char *path, const char *text, mode_t mode);
int agent_write_all(int fd, const char *text, size_t len);
/* COPPICE_* of this clone. */
struct agent_vars *agent_clone_vars(const struct cop_agent_identify *m);

/* agent-run.c: a program with a time limit. */
struct agent_ran {
	int error;  /* errno: could not be started */
	int status; /* of waitpid */
	bool timed_out;
	uint32_t head_len;
	char head[4096]; /* the first of its output */
	char last[256];	 /* the last line of it, printable */
};
struct agent_running { /* shared with the agent, which kills it when its session is over */
	pid_t pid;
};
extern struct agent_running *agent_running;
/* env: added to PATH and HOME; or NULL. */
void agent_run(const char *const *argv, const char *const *env, int64_t timeout_ms,
	       struct agent_ran *ret);
bool agent_run_ok(const struct agent_ran *ran);
/* Is there such a program? */
bool agent_have(const char *program);

/* agent-vars.c: COPPICE_* of an identity, as "NAME=value" in `list`, which ends with NULL. */
#define AGENT_MAX_VARS (COP_AGENT_MAX_PARAMS + 12)
struct agent_vars {
	char *list[AGENT_MAX_VARS + 1];
	char text[COP_AGENT_FRAME_MAX + 16384];
	uint32_t nr, len;
};
void agent_vars_add(struct agent_vars *v, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Keys in capitals after the prefix. */
void agent_vars_add_params(struct agent_vars *v, const char *prefix, const char *const *params);
/* A line for a shell, NAME='value'. Returns bytes; 0: size is too small. */
size_t agent_var_quote(char *buf, size_t size, const char *var);

/* agent-quiesce.c */
void agent_quiesce(uint32_t id, uint32_t timeout_ms);
unsigned agent_thaw(void); /* returns the number of file systems that were frozen */
/* At the start: what an agent that was killed has left frozen. */
void agent_thaw_left(void);
bool agent_quiesced(void);
int64_t agent_quiesce_tick(int64_t now_us);
void agent_quiesce_reaped(pid_t pid);

/* agent-hold.c: while it lasts, no other program of the guest runs. 0 or -errno. */
int agent_hold(uint32_t limit_ms);
void agent_hold_end(void);
int64_t agent_hold_tick(int64_t now_us);

/* agent-local.c */
void agent_local_open(void);
void agent_local_response(const struct cop_agent_frame *f);
void agent_local_session(bool is_clone);
void agent_local_identified(void); /* the clone is now what it is */

/* agent-client.c: the program as one that asks the agent. Returns the exit status. */
int agent_client(int argc, char **argv, const char *socket_path);

#endif
