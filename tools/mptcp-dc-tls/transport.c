// SPDX-License-Identifier: GPL-2.0
/*
 * Which socket does a TLS connection run over? OpenSSL knows if the program gave it the socket. Some
 * programs, such as curl, give it a BIO of their own instead, which sends where OpenSSL doesn't see.
 * But the sending is a call of the C library below a call of the BIO, in the same thread, with the same
 * bytes. If it has others, it is no part of this connection: with TLS inside TLS, they are the outer
 * one's. A BIO that only fills memory calls nothing, and whether its bytes ever get to a socket can't be
 * told. Such connections get no key.
 */
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload.h"

enum {
	/* Of what is sent, so much is compared. It has random numbers, or is encrypted. */
	COMPARED = 64,
	/* Nothing can be told from less, such as a message of TLS's that is always the same. */
	SUFFICES = 24,
};

/* A socket, and by its identity that it is still the same one: so it fits a pointer. 0: none. */
#define NOTED(fd, identity)	((uintptr_t)(identity) << 32 | (uint32_t)(fd))
#define UNCERTAIN		((uintptr_t)-1)
_Static_assert(sizeof(uintptr_t) == 8, "a socket and its identity fit a pointer");

/* The watched BIO's call that this thread is in: what is written, and which socket it was sent on. */
struct call {
	size_t length;
	unsigned char start[COMPARED];
	uintptr_t socket;
};

/* Signal handlers may send, too: no lazy allocation. */
static __thread struct call call __attribute__((tls_model("initial-exec")));

static uintptr_t merged(uintptr_t one, uintptr_t other)
{
	if (!one || !other)
		return one | other;
	return one == other ? one : UNCERTAIN;
}

/* So much was sent, and began so. */
static void note_sent(int fd, const void *data, size_t length)
{
	uint32_t identity;

	if (length > call.length)
		length = call.length;
	if (length > COMPARED)
		length = COMPARED;
	if (length < SUFFICES || memcmp(data, call.start, length) != 0)
		return;
	identity = dc_socket_identity(fd);
	if (identity)
		call.socket = merged(call.socket, NOTED(fd, identity));
}

static void note_sent_parts(int fd, const struct iovec *parts, size_t count, size_t length)
{
	unsigned char start[COMPARED];
	size_t gathered = 0, number;

	for (number = 0; number < count && gathered < COMPARED && gathered < length; number++) {
		size_t part = parts[number].iov_len;

		if (part > COMPARED - gathered)
			part = COMPARED - gathered;
		if (part > length - gathered)
			part = length - gathered;
		memcpy(start + gathered, parts[number].iov_base, part);
		gathered += part;
	}
	note_sent(fd, start, gathered);
}

#define SENDER(name, parameters, arguments, note)			\
	EXPORT ssize_t name parameters					\
	{								\
		const ssize_t sent = NEXT(name) arguments;		\
									\
		if (call.length && sent > 0)				\
			note;						\
		return sent;						\
	}

#define DATA	const void *data, size_t length
SENDER(send, (int fd, DATA, int flags), (fd, data, length, flags), note_sent(fd, data, sent))
SENDER(sendto, (int fd, DATA, int flags, const struct sockaddr *address, socklen_t size),
	(fd, data, length, flags, address, size), note_sent(fd, data, sent))
SENDER(sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags),
	note_sent_parts(fd, message->msg_iov, message->msg_iovlen, sent))
SENDER(write, (int fd, DATA), (fd, data, length), note_sent(fd, data, sent))
SENDER(writev, (int fd, const struct iovec *parts, int count), (fd, parts, count),
	note_sent_parts(fd, parts, count, sent))

EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	const int sent = NEXT(sendmmsg)(fd, messages, count, flags);

	if (call.length && sent > 0)
		note_sent_parts(fd, messages[0].msg_hdr.msg_iov, messages[0].msg_hdr.msg_iovlen,
				messages[0].msg_len);
	return sent;
}

/*
 * What was found stays with the BIO, as its callback's argument. So it is there for whichever thread goes
 * on with the handshake, and gone with the BIO.
 */
static long on_bio(const struct dc_openssl *openssl, BIO *bio, int operation, const char *data,
		   size_t length, long status)
{
	if (operation == BIO_CB_WRITE && data) {
		call.length = length;
		call.socket = 0;
		memcpy(call.start, data, length < COMPARED ? length : COMPARED);
	} else if (operation == (BIO_CB_WRITE | BIO_CB_RETURN)) {
		uintptr_t before = (uintptr_t)openssl->BIO_get_callback_arg(bio);

		call.length = 0;
		if (call.socket)
			openssl->BIO_set_callback_arg(bio, (char *)merged(before, call.socket));
		call.socket = 0;
	}
	return status;
}

#define ON_BIO(number)									\
	static long on_bio_##number(BIO *bio, int operation, const char *data,		\
				    size_t length, int argi, long argl, int status,	\
				    size_t *processed)					\
	{										\
		(void)argi, (void)argl, (void)processed;				\
											\
		return on_bio(&dc_openssls[number], bio, operation, data, length, status);\
	}
DC_OPENSSLS(ON_BIO)

#define LISTED(number)	on_bio_##number,
const BIO_callback_fn_ex dc_on_bio[] = { DC_OPENSSLS(LISTED) };

/* The BIO that takes the connection's bytes to its socket unchanged, if OpenSSL's own do that. */
static BIO *plain_bio(const struct dc_openssl *openssl, SSL *ssl)
{
	BIO *bio = openssl->SSL_get_wbio(ssl);

	for (; bio; bio = openssl->BIO_next(bio)) {
		switch (openssl->BIO_method_type(bio)) {
		case BIO_TYPE_SOCKET:
		case BIO_TYPE_CONNECT:
		case BIO_TYPE_ACCEPT:
		case BIO_TYPE_FD:
			return bio;
		case BIO_TYPE_BUFFER:
		case BIO_TYPE_LINEBUFFER:
		case BIO_TYPE_NULL_FILTER:
		case BIO_TYPE_NBIO_TEST:
			break;
		default:
			return NULL;
		}
	}
	return NULL;
}

/* A BIO that the program itself watches is left alone. */
void dc_transport_watch(const struct dc_openssl *openssl, SSL *ssl)
{
	BIO *bio = openssl->SSL_get_wbio(ssl);

	if (bio && !plain_bio(openssl, ssl) && !openssl->BIO_get_callback_ex(bio) &&
	    !openssl->BIO_get_callback(bio) && !openssl->BIO_get_callback_arg(bio))
		openssl->BIO_set_callback_ex(bio, openssl->on_bio);
}

static BIO *watched_bio(const struct dc_openssl *openssl, SSL *ssl)
{
	BIO *bio = openssl->SSL_get_wbio(ssl);

	return bio && openssl->BIO_get_callback_ex(bio) == openssl->on_bio ? bio : NULL;
}

void dc_transport_unwatch(const struct dc_openssl *openssl, SSL *ssl)
{
	BIO *bio = watched_bio(openssl, ssl);

	if (bio) {
		openssl->BIO_set_callback_ex(bio, NULL);
		openssl->BIO_set_callback_arg(bio, NULL);
	}
}

int dc_transport_fd(const struct dc_openssl *openssl, SSL *ssl)
{
	BIO *bio = plain_bio(openssl, ssl);
	uintptr_t found;
	int fd = -1;

	if (bio) {
		/* Reading and writing on two sockets isn't one connection. */
		if (openssl->BIO_ctrl(bio, BIO_C_GET_FD, 0, &fd) < 0 || fd < 0 ||
		    openssl->SSL_get_rfd(ssl) != fd || !dc_socket_identity(fd))
			return -1;
		return fd;
	}
	bio = watched_bio(openssl, ssl);
	found = bio ? (uintptr_t)openssl->BIO_get_callback_arg(bio) : 0;
	if (!found || found == UNCERTAIN || dc_socket_identity((int)found) != found >> 32)
		return -1;
	return (int)found;
}
