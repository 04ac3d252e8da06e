// SPDX-License-Identifier: GPL-2.0
/*
 * TCP sockets become MPTCP sockets that ask for external keys.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/mptcp_dc.h>

#include "preload.h"

bool dc_logging;

/* Early: servers drop their environment. */
__attribute__((constructor))
static void read_environment(void)
{
	const char *value = secure_getenv("MPTCP_DC_TLS_LOG");

	dc_logging = value && strcmp(value, "1") == 0;
}

void dc_log(const char *format, ...)
{
	const int error = errno;
	char line[256];
	va_list args;
	int length;

	if (!dc_logging)
		return;
	length = snprintf(line, sizeof(line), "mptcp-dc-tls[%d]: ", (int)getpid());
	va_start(args, format);
	length += vsnprintf(line + length, sizeof(line) - length, format, args);
	va_end(args);
	if (length > (int)sizeof(line) - 1)
		length = sizeof(line) - 1;
	line[length++] = '\n';
	/* At once, or lines of several threads mix. If nobody reads it, so be it. */
	if (NEXT(write)(STDERR_FILENO, line, length) < 0)
		errno = error;
	errno = error;
}

static bool is_tcp(int domain, int type, int protocol)
{
	type &= ~(SOCK_NONBLOCK | SOCK_CLOEXEC);
	return (domain == AF_INET || domain == AF_INET6) && type == SOCK_STREAM &&
	       (protocol == 0 || protocol == IPPROTO_TCP);
}

/*
 * The option is set at once, so there is no need to see connect() and listen(). A socket that can't
 * have external keys becomes a TCP socket: with MPTCP it would send keys in clear.
 */
EXPORT int socket(int domain, int type, int protocol)
{
	const int error = errno, one = 1;
	int fd;

	if (!is_tcp(domain, type, protocol))
		return NEXT(socket)(domain, type, protocol);

	fd = NEXT(socket)(domain, type, IPPROTO_MPTCP);
	if (fd >= 0 && setsockopt(fd, SOL_MPTCP, MPTCP_ENABLE_APP_KEY, &one, sizeof(one)) == 0) {
		dc_log("fd %d asks for external keys", fd);
		errno = error;
		return fd;
	}
	dc_log("%s: %s, so it's TCP", fd < 0 ? "no MPTCP" : "MPTCP_ENABLE_APP_KEY",
	       strerror(errno));
	if (fd >= 0)
		close(fd);
	errno = error;
	return NEXT(socket)(domain, type, protocol);
}

uint32_t dc_socket_identity(int fd)
{
	const int before = errno;
	int protocol = 0;
	socklen_t length = sizeof(protocol);
	uint32_t identity = 0;
	struct stat status;

	if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) == 0 &&
	    (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP) && fstat(fd, &status) == 0)
		identity = (uint32_t)status.st_ino ?: 1;
	errno = before;
	return identity;
}

int dc_socket_set_key(int fd, const void *key, size_t length)
{
	const int before = errno;
	int status = 0;

	if (setsockopt(fd, SOL_MPTCP, MPTCP_KEY, key, length))
		status = -errno;
	errno = before;
	return status;
}
