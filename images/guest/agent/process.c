#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/stat.h>
#include <unistd.h>

#include "credentials.h"
#include "nodes.h"
#include "program.h"
#include "rootfs.h"

/* The other ends of the pipes. */
struct child_ends {
	int status, stdin, stdout, stderr;
};

static int make_pipe(int *read_end, int *write_end)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	*read_end = ends[0];
	*write_end = ends[1];
	return 0;
}

static int unblock(int fd)
{
	return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static int open_null(void)
{
	if (mknod("/dev/null", S_IFCHR | 0666, makedev(1, 3)) < 0 && errno != EEXIST)
		return -1;
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static int make_pipes(struct process *process, struct child_ends *child, const struct manifest *manifest,
		      bool stdin_empty)
{
	const struct process_spec *spec = &manifest->process;

	process->stdin = -1;
	if (make_pipe(&process->status, &child->status) < 0 || make_pipe(&process->stdout, &child->stdout) < 0 ||
	    make_pipe(&process->stderr, &child->stderr) < 0 || unblock(process->status) < 0 ||
	    unblock(process->stdout) < 0 || unblock(process->stderr) < 0)
		return -1;
	if (stdin_empty)
		child->stdin = open_null();
	else if (make_pipe(&child->stdin, &process->stdin) < 0 || unblock(process->stdin) < 0 ||
		 fchown(child->stdin, spec->uid, spec->gid) < 0)
		return -1;
	/* So that the workload may open /dev/stdout and its like again. */
	if (fchown(child->stdout, spec->uid, spec->gid) < 0 || fchown(child->stderr, spec->uid, spec->gid) < 0)
		return -1;
	return child->stdin < 0 ? -1 : 0;
}

static int reset_signals(void)
{
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		if (number != SIGKILL && number != SIGSTOP)
			(void)signal(number, SIG_DFL); /* the C library's own two refuse */
	(void)sigemptyset(&none);
	return sigprocmask(SIG_SETMASK, &none, NULL);
}

static int take_stdio(const struct child_ends *ends)
{
	if (dup2(ends->stdin, 0) < 0 || dup2(ends->stdout, 1) < 0 || dup2(ends->stderr, 2) < 0)
		return -1;
	return close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
}

static int set_up(const struct child_ends *ends, const struct manifest *manifest, struct settings *settings,
		  struct failure *failure)
{
	if (rootfs_enter(failure) < 0 || rootfs_fill(manifest, settings, failure) < 0 ||
	    rootfs_protect(manifest, failure) < 0)
		return -1;
	if (sethostname(settings->hostname, strlen(settings->hostname)) < 0)
		return fail_errno(failure, FAIL_PROCESS, "cannot set the hostname");
	program_set_home(settings, manifest->process.uid);
	if (reset_signals() < 0 || setsid() < 0 || take_stdio(ends) < 0)
		return fail_errno(failure, FAIL_PROCESS, "cannot set up the process");
	if (chdir(manifest->process.cwd) < 0)
		return fail_errno(failure, FAIL_PROCESS, "cannot enter the working directory %s",
				  manifest->process.cwd);
	return credentials_take(&manifest->process, failure);
}

__attribute__((noreturn)) static void child(const struct child_ends *ends, const struct manifest *manifest,
					     struct settings *settings)
{
	struct process_report report = { 0 };
	ssize_t written;
	int result = set_up(ends, manifest, settings, &report.failure);

	report.ready_us = microseconds();
	written = write(ends->status, &report, sizeof(report)); /* under PIPE_BUF: whole or not at all */
	if (result < 0 || written != (ssize_t)sizeof(report))
		_exit(1);
	_exit(program_execute(settings));
}

/* clone3 as fork, into new namespaces. IPC and cgroup namespaces only where the kernel has them. */
static pid_t fork_apart(int *pidfd)
{
	static const uint64_t optional[] = { CLONE_NEWIPC | CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWCGROUP, 0 };
	long pid = -1;

	for (size_t i = 0; i < COUNT_OF(optional); i++) {
		struct clone_args args = {
			.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_PIDFD | optional[i],
			.pidfd = (uint64_t)(uintptr_t)pidfd,
			.exit_signal = SIGCHLD,
		};

		pid = syscall(SYS_clone3, &args, sizeof(args));
		if (pid >= 0 || errno != EINVAL)
			break;
	}
	return (pid_t)pid;
}

int process_start(struct process *process, const struct manifest *manifest, struct settings *settings,
		  struct failure *failure)
{
	struct child_ends ends;

	if (make_pipes(process, &ends, manifest, settings->stdin_empty) < 0)
		return fail_errno(failure, FAIL_PROCESS, "cannot make the pipes");
	process->pid = fork_apart(&process->pidfd);
	if (process->pid == 0)
		child(&ends, manifest, settings);
	if (process->pid < 0)
		return fail_errno(failure, FAIL_PROCESS, "cannot make the process");
	(void)close(ends.status);
	(void)close(ends.stdin);
	(void)close(ends.stdout);
	(void)close(ends.stderr);
	return 0;
}
