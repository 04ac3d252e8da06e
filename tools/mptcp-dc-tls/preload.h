/* SPDX-License-Identifier: GPL-2.0 */
/*
 * libmptcp_dc_tls.so: MPTCP with external keys for programs that use OpenSSL 3 and don't know it.
 *
 *	socket.c	TCP sockets become MPTCP sockets that ask for external keys
 *	openssl.c	the OpenSSLs of this process, and which of them made an object
 *	tls.c		when a TLS handshake is done, its key becomes the connection's
 *	transport.c	which socket a TLS connection runs over
 *	exec.c		says when a program is started that is without this library
 *
 * The program must not notice: whatever fails or is unknown here, its call goes where it would have gone
 * and returns what it would have, and errno and OpenSSL's error queue are as they would be.
 */
#ifndef _MPTCP_DC_TLS_PRELOAD_H
#define _MPTCP_DC_TLS_PRELOAD_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

/* Defined here in place of the C library's, for the program and all its libraries. */
#define EXPORT	__attribute__((visibility("default")))

/*
 * dc_NAME() is defined here in place of libssl's NAME(). Only references to a symbol of this version
 * come here, which are those of programs built with OpenSSL 3: an OpenSSL 1.1 or BoringSSL in the
 * same process stays untouched.
 */
#define OPENSSL_3(name)								\
	__attribute__((visibility("default"), symver(#name "@OPENSSL_3.0.0")))	\
	extern typeof(name) dc_##name

#define OPENSSL_3_VERSION	"OPENSSL_3.0.0"

/* What the program would have called of the C library. Safe in any thread: all find the same. */
#define NEXT(function) ({							\
	static typeof(&function) cached;					\
	typeof(&function) next = __atomic_load_n(&cached, __ATOMIC_RELAXED);	\
										\
	if (!next) {								\
		next = (typeof(&function))dlsym(RTLD_NEXT, #function);		\
		__atomic_store_n(&cached, next, __ATOMIC_RELAXED);		\
	}									\
	next;									\
})

/* Functions of libssl that are defined here: f(NAME). */
#define DC_REPLACED(f)			\
	f(SSL_new)			\
	f(SSL_set_info_callback)	\
	f(SSL_get_info_callback)	\
	f(BIO_new_ssl)			\
	f(BIO_new_ssl_connect)		\
	f(BIO_new_buffer_ssl_connect)

/* Functions of libssl called here. */
#define DC_LIBSSL_FUNCTIONS(f)		\
	DC_REPLACED(f)			\
	f(SSL_CTX_get_info_callback)	\
	f(SSL_CTX_get_ssl_method)	\
	f(SSL_ctrl)			\
	f(SSL_export_keying_material)	\
	f(SSL_get_ex_data)		\
	f(SSL_get_rfd)			\
	f(SSL_get_SSL_CTX)		\
	f(SSL_get_ssl_method)		\
	f(SSL_get_state)		\
	f(SSL_get_version)		\
	f(SSL_get_wbio)			\
	f(SSL_is_dtls)			\
	f(SSL_set_ex_data)		\
	f(SSL_version)

/* Functions of libcrypto called here. */
#define DC_LIBCRYPTO_FUNCTIONS(f)	\
	f(BIO_ctrl)			\
	f(BIO_get_callback)		\
	f(BIO_get_callback_arg)		\
	f(BIO_get_callback_ex)		\
	f(BIO_method_type)		\
	f(BIO_next)			\
	f(BIO_set_callback_arg)		\
	f(BIO_set_callback_ex)		\
	f(CRYPTO_get_ex_new_index)	\
	f(ERR_pop_to_mark)		\
	f(ERR_set_mark)			\
	f(EVP_Q_digest)

typedef void (*dc_info_callback)(const SSL *ssl, int where, int value);

/* One OpenSSL of the process: a libssl, and the libcrypto that it works with. Once known, it stays loaded. */
struct dc_openssl {
#define FIELD(name)	typeof(&name) name;
	DC_LIBSSL_FUNCTIONS(FIELD)
	DC_LIBCRYPTO_FUNCTIONS(FIELD)
#undef FIELD
	/* NULL before OpenSSL 3.2, which has no QUIC */
	int (*SSL_is_quic)(const SSL *ssl);
	/* Where libssl lies. */
	uintptr_t low, high;
	/* Callbacks take no pointer that would tell them whose they are, so each OpenSSL has its own. */
	dc_info_callback on_info;
	BIO_callback_fn_ex on_bio;
	/* What is kept with a connection: the program's own info callback; our state. */
	int own_index, state_index;
	/* DC_KEYS_... */
	int keys;
};

/* May keys be taken from this OpenSSL's connections? */
enum {
	DC_KEYS_UNTRIED,
	DC_KEYS_BEING_TRIED,
	DC_KEYS_READY,
	DC_KEYS_NEVER,	/* functions are missing, or it isn't as expected */
};

/* How many are told apart: CALL(0) CALL(1) ... More of them have no keys. */
#define DC_OPENSSLS(f)	f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)

#define DC_COUNT(number)	+ 1
enum { DC_MOST_OPENSSLS = 0 DC_OPENSSLS(DC_COUNT) };

extern struct dc_openssl dc_openssls[DC_MOST_OPENSSLS];

/* Callbacks, by number of the OpenSSL. */
extern const dc_info_callback dc_on_info[DC_MOST_OPENSSLS];
extern const BIO_callback_fn_ex dc_on_bio[DC_MOST_OPENSSLS];

/* The OpenSSL that made this object, or NULL if that isn't certain. */
struct dc_openssl *dc_openssl_of_context(const SSL_CTX *context);
struct dc_openssl *dc_openssl_of_connection(const SSL *ssl);

enum dc_replaced {
#define NUMBER(name)	DC_##name,
	DC_REPLACED(NUMBER)
#undef NUMBER
	DC_REPLACED_COUNT,
};

/*
 * The function that the program would have called with an object of this OpenSSL (NULL: unknown) from
 * this address. NULL only if there is none.
 */
void *dc_openssl_next(enum dc_replaced function, const struct dc_openssl *openssl,
		      const void *caller);

/* MPTCP_DC_TLS_LOG=1 */
extern bool dc_logging;

/* One line on standard error, if logging. Keeps errno. */
__attribute__((format(printf, 1, 2)))
void dc_log(const char *format, ...);

/* Sets MPTCP_KEY. 0 or -errno; keeps errno. */
int dc_socket_set_key(int fd, const void *key, size_t length);

/* Is it a socket of TCP or MPTCP? Then a number that no other open socket has, else 0. Keeps errno. */
uint32_t dc_socket_identity(int fd);

/* To be called when a handshake starts and when it is done, so that dc_transport_fd() can tell between. */
void dc_transport_watch(const struct dc_openssl *openssl, SSL *ssl);
void dc_transport_unwatch(const struct dc_openssl *openssl, SSL *ssl);

/* The socket below a TLS connection; -1 if that is none of this process, or not certain. */
int dc_transport_fd(const struct dc_openssl *openssl, SSL *ssl);

#endif /* _MPTCP_DC_TLS_PRELOAD_H */
