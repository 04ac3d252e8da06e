// SPDX-License-Identifier: GPL-2.0
/*
 * Which socket does a TLS connection run over? OpenSSL knows if the program gave it the socket. Some
 * programs, such as curl, give it a BIO of their own instead, which sends where OpenSSL doesn't see.
 * But the sending is a call of the C library below a call of the BIO, in the same thread. A BIO that
 * only fills memory calls nothing, and whether its bytes ever get to a socket can't be told: such
 * connections get no key.
 */
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload.h"

/*
 * The socket that this thread sent on since the innermost call of a watched BIO began. The
 * innermost: with TLS inside TLS, the socket is the outer one's, and the inner one has none.
 */
enum {
	NO_CALL = -2,
	NOTHING_SENT = -1,
};

/* Signal handlers may send, too: no lazy allocation. */
static __thread int sent_on __attribute__((tls_model("initial-exec"))) = NO_CALL;

#define SENDER(name, parameters, arguments)		\
	EXPORT ssize_t name parameters			\
	{						\
		if (sent_on == NOTHING_SENT)		\
			sent_on = fd;			\
		return NEXT(name) arguments;		\
	}

SENDER(send, (int fd, const void *data, size_t length, int flags), (fd, data, length, flags));
SENDER(sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags));
SENDER(write, (int fd, const void *data, size_t length), (fd, data, length));
SENDER(writev, (int fd, const struct iovec *parts, int count), (fd, parts, count));

/*
 * What was found stays with the BIO, as its callback's argument: the socket + 1. So it is there for
 * whichever thread goes on with the handshake, and gone with the BIO.
 */
static long watch(BIO *bio, int operation, const char *data, size_t length, int argi,
		  long argl, int status, size_t *processed)
{
	(void)data, (void)length, (void)argi, (void)argl, (void)processed;

	if (operation & BIO_CB_RETURN) {
		if (sent_on >= 0)
			openssl.BIO_set_callback_arg(bio, (char *)((intptr_t)sent_on + 1));
		sent_on = NO_CALL;
	} else if (operation != BIO_CB_FREE) {
		sent_on = NOTHING_SENT;
	}
	return status;
}

/* A BIO that the program itself watches is left alone. Else for the BIO's whole life: see sent_on. */
void dc_transport_watch(SSL *ssl)
{
	BIO *bio = openssl.SSL_get_wbio(ssl);

	if (bio && !openssl.BIO_get_callback_ex(bio) && !openssl.BIO_get_callback(bio) &&
	    !openssl.BIO_get_callback_arg(bio))
		openssl.BIO_set_callback_ex(bio, watch);
}

int dc_transport_fd(SSL *ssl)
{
	const int fd = openssl.SSL_get_fd(ssl);
	BIO *bio;

	if (fd >= 0)
		return fd;
	bio = openssl.SSL_get_wbio(ssl);
	if (!bio || openssl.BIO_get_callback_ex(bio) != watch)
		return -1;
	return (int)((intptr_t)openssl.BIO_get_callback_arg(bio) - 1);
}
