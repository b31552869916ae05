#include "credentials.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int set_limits(const struct process_spec *spec, struct failure *failure)
{
	for (size_t i = 0; i < spec->rlimit_count; i++) {
		const struct rlimit_entry *entry = &spec->rlimits[i];
		struct rlimit limit = { .rlim_cur = entry->soft, .rlim_max = entry->hard };

		if (setrlimit((__rlimit_resource_t)entry->resource, &limit) < 0)
			return fail_errno(failure, FAIL_PROCESS, "cannot set resource limit %d to %llu, %llu",
					  entry->resource, (unsigned long long)entry->soft,
					  (unsigned long long)entry->hard);
	}
	return 0;
}

static int drop_bounding(uint64_t kept)
{
	for (int number = 0; number < 64; number++) {
		if ((kept >> number & 1) != 0)
			continue;
		if (prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0)
			return errno == EINVAL ? 0 : -1; /* past the last one that the kernel knows */
	}
	return 0;
}

/*
 * Nothing is inheritable, as in podman since CVE-2022-27649: root gets its set at execve from the bounding set, another
 * user gets none (runc and crun do the same without ambient capabilities).
 */
static int set_capabilities(uint64_t set)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	uint32_t low = (uint32_t)(set & UINT32_MAX), high = (uint32_t)(set >> 32);
	struct __user_cap_data_struct data[2] = { { .effective = low, .permitted = low },
						  { .effective = high, .permitted = high } };

	return (int)syscall(SYS_capset, &header, data);
}

int credentials_take(const struct process_spec *spec, struct failure *failure)
{
	gid_t groups[COUNT_OF(spec->groups)];

	if (set_limits(spec, failure) < 0)
		return -1;
	for (size_t i = 0; i < spec->group_count; i++)
		groups[i] = spec->groups[i];
	(void)umask(spec->umask);
	if (drop_bounding(spec->capabilities) < 0 || setgroups(spec->group_count, groups) < 0 ||
	    setresgid(spec->gid, spec->gid, spec->gid) < 0 || setresuid(spec->uid, spec->uid, spec->uid) < 0)
		return fail_errno(failure, FAIL_PROCESS, "cannot become user %u, group %u", spec->uid, spec->gid);
	if (set_capabilities(spec->uid == 0 ? spec->capabilities : 0) < 0)
		return fail_errno(failure, FAIL_PROCESS, "cannot set the capabilities");
	if (spec->no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return fail_errno(failure, FAIL_PROCESS, "cannot set no_new_privs");
	return 0;
}
