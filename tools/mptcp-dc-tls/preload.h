/* SPDX-License-Identifier: GPL-2.0 */
/*
 * libmptcp_dc_tls.so: MPTCP with external keys for programs that use OpenSSL 3 and don't know it.
 *
 *	socket.c	TCP sockets become MPTCP sockets that ask for external keys
 *	tls.c		when a TLS handshake is done, its key becomes the connection's
 *	transport.c	which socket a TLS connection runs over
 *
 * The program must not notice: whatever fails here, its call returns what it would have, and errno
 * and OpenSSL's error queue are as they would be.
 */
#ifndef _MPTCP_DC_TLS_PRELOAD_H
#define _MPTCP_DC_TLS_PRELOAD_H

#include <dlfcn.h>
#include <stdbool.h>

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

/* What the program would have called. Safe in any thread: all find the same. */
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

/* Functions of libssl and libcrypto called here. Not linked to: most programs don't need them. */
#define DC_OPENSSL_FUNCTIONS(f)		\
	f(SSL_CTX_new)			\
	f(SSL_CTX_new_ex)		\
	f(SSL_CTX_get_info_callback)	\
	f(SSL_CTX_set_info_callback)	\
	f(SSL_CTX_get_ex_data)		\
	f(SSL_CTX_set_ex_data)		\
	f(SSL_get_info_callback)		\
	f(SSL_set_info_callback)		\
	f(SSL_get_ex_data)		\
	f(SSL_set_ex_data)		\
	f(SSL_get_SSL_CTX)		\
	f(SSL_get_state)		\
	f(SSL_get_fd)			\
	f(SSL_get_wbio)			\
	f(SSL_get_version)		\
	f(SSL_export_keying_material)	\
	f(BIO_get_callback)		\
	f(BIO_get_callback_ex)		\
	f(BIO_set_callback_ex)		\
	f(BIO_get_callback_arg)		\
	f(BIO_set_callback_arg)		\
	f(CRYPTO_get_ex_new_index)	\
	f(ERR_set_mark)			\
	f(ERR_pop_to_mark)		\
	f(EVP_Q_digest)

struct dc_openssl {
#define FIELD(name)	typeof(&name) name;
	DC_OPENSSL_FUNCTIONS(FIELD)
#undef FIELD
};

/* The program's OpenSSL, loaded by itself. To be used only below a call that came from it. */
extern struct dc_openssl openssl;

/* MPTCP_DC_TLS_LOG=1 */
extern bool dc_logging;

/* One line on standard error, if logging. Keeps errno. */
__attribute__((format(printf, 1, 2)))
void dc_log(const char *format, ...);

/* Sets MPTCP_KEY. 0 or -errno; keeps errno. */
int dc_socket_set_key(int fd, const void *key, size_t length);

/* To be called when a handshake starts, so that dc_transport_fd() can tell. */
void dc_transport_watch(SSL *ssl);

/* The socket below a TLS connection; -1 if that is none of this process. */
int dc_transport_fd(SSL *ssl);

#endif /* _MPTCP_DC_TLS_PRELOAD_H */
