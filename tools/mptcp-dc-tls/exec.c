// SPDX-License-Identifier: GPL-2.0
/*
 * Says when a program is started that is without this library, as nginx does when it is upgraded: it
 * passes on only the environment that its configuration names. What the program passes on isn't changed.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "preload.h"

static void look_at_environment(const char *path, char *const environment[])
{
	static const char preload[] = "LD_PRELOAD=";
	Dl_info self;

	if (!dc_logging || !dladdr(dc_openssls, &self) || !self.dli_fname)
		return;
	for (; environment && *environment; environment++) {
		if (strncmp(*environment, preload, strlen(preload)) == 0 &&
		    strstr(*environment, self.dli_fname))
			return;
	}
	dc_log("%s is started without LD_PRELOAD, so without keys (nginx: \"env LD_PRELOAD;\")",
	       path ?: "(null)");
}

EXPORT int execve(const char *path, char *const arguments[], char *const environment[])
{
	const int error = errno;

	look_at_environment(path, environment);
	errno = error;
	return NEXT(execve)(path, arguments, environment);
}
