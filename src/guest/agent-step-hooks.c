/* A clone's last steps: the user's own, in /etc/coppice/clone.d. */
#include "agent.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_HOOKS 64

static int is_hook(const struct dirent *e)
{
	static const char good[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

	return e->d_name[0] && strlen(e->d_name) <= 60 &&
	       strspn(e->d_name, good) == strlen(e->d_name);
}

static void report_hook(struct agent_report *r, const char *name, const struct agent_ran *ran)
{
	char step[80];

	snprintf(step, sizeof(step), "hook %.60s", name);
	if (ran->error)
		agent_report(r, step, COP_AGENT_FAILED, "%s", strerror(ran->error));
	else if (ran->timed_out)
		agent_report(r, step, COP_AGENT_TIMEOUT, "killed: %s", ran->last);
	else if (agent_run_ok(ran))
		agent_report(r, step, COP_AGENT_DONE, "%s", ran->last);
	else if (WIFSIGNALED(ran->status))
		agent_report(r, step, COP_AGENT_FAILED, "signal %d: %s", WTERMSIG(ran->status),
			     ran->last);
	else
		agent_report(r, step, COP_AGENT_FAILED, "exit %d: %s", WEXITSTATUS(ran->status),
			     ran->last);
}

void agent_step_hooks(struct agent_report *r, const struct cop_agent_identify *m)
{
	static struct agent_ran ran;
	struct agent_vars *v = agent_clone_vars(m);
	struct dirent **list;
	int nr = scandir(agent_path("/etc/coppice/clone.d"), &list, is_hook, alphasort), done = 0;
	int log = open(agent_path("/run/coppice/hooks.log"),
		       O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	for (int i = 0; i < nr; i++) {
		char path[4200];
		const char *argv[] = {path, NULL};
		struct stat st;

		snprintf(path, sizeof(path), "%s/%s", agent_path("/etc/coppice/clone.d"),
			 list[i]->d_name);
		if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || access(path, X_OK) < 0)
			continue;
		if (done++ == MAX_HOOKS) {
			agent_report(r, "hooks", COP_AGENT_FAILED, "more than %d", MAX_HOOKS);
			break;
		}
		agent_run(argv, (const char *const *)v->list, m->hook_timeout_ms, &ran);
		report_hook(r, list[i]->d_name, &ran);
		if (log >= 0) {
			dprintf(log, "== %s\n", list[i]->d_name);
			(void)agent_write_all(log, ran.head, ran.head_len); /* only a help */
		}
	}
	if (log >= 0)
		close(log);
}
