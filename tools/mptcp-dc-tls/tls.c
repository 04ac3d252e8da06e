// SPDX-License-Identifier: GPL-2.0
/*
 * When a TLS handshake is done, its key becomes the connection's.
 *
 * OpenSSL tells the end of a handshake to an info callback, of which a connection has one; if it has
 * none, its context's is called. All connections get the one below when they are made, and the program's
 * is called from there. So the end is seen whatever call reached it: SSL_accept(), SSL_read(), a BIO, and
 * in TLS 1.2 also that of another handshake on the same connection, which replaces the key. In TLS 1.3 a
 * key update doesn't change what is exported.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "preload.h"

/*
 * Both ends use the same, and no context: see EXPORTER_LABEL in tools/mptcp-dc. RFC 5705,
 * section 4, reserves labels that begin so for use without registration.
 */
#define EXPORTER_LABEL	"EXPERIMENTAL mptcp-dc key"
#define KEY_LENGTH	32

/* The state that is kept with a connection. */
enum {
	HANDSHAKE_DONE = 1,	/* and its key not set yet */
};

/* The connection that this thread's latest call of CRYPTO_new_ex_data() was for. */
static __thread void *newborn __attribute__((tls_model("initial-exec")));

/* To compare both ends' logs: the key can't be told from it. */
static void log_key(const struct dc_openssl *openssl, const char *version,
		    const unsigned char *key, int fd, int status)
{
	unsigned char hash[EVP_MAX_MD_SIZE] = { 0 };

	if (!dc_logging)
		return;
	openssl->EVP_Q_digest(NULL, "SHA256", NULL, key, KEY_LENGTH, hash, NULL);
	dc_log("socket %d: %s key with SHA-256 %02x%02x%02x%02x%02x%02x%02x%02x: %s", fd, version,
	       hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7],
	       fd < 0 ? "no socket" : status ? strerror(-status) : "set");
}

/*
 * Without the extended master secret, a man in the middle can have two connections of TLS 1.2 with the
 * same master secret, so what is exported is his, too (RFC 7627, sections 1 and 5.4).
 */
static bool exports_safely(const struct dc_openssl *openssl, SSL *ssl)
{
	return openssl->SSL_version(ssl) >= TLS1_3_VERSION ||
	       openssl->SSL_ctrl(ssl, SSL_CTRL_GET_EXTMS_SUPPORT, 0, NULL) == 1;
}

static void set_key(const struct dc_openssl *openssl, SSL *ssl)
{
	const char *version = openssl->SSL_get_version(ssl);
	const int error = errno;
	unsigned char key[KEY_LENGTH];
	int fd;

	openssl->ERR_set_mark();
	if (!exports_safely(openssl, ssl)) {
		dc_log("%s without extended master secret: no key", version);
	} else if (openssl->SSL_export_keying_material(ssl, key, sizeof(key), EXPORTER_LABEL,
						       strlen(EXPORTER_LABEL), NULL, 0, 0) == 1) {
		fd = dc_transport_fd(openssl, ssl);
		log_key(openssl, version, key, fd,
			fd < 0 ? 0 : dc_socket_set_key(fd, key, sizeof(key)));
		explicit_bzero(key, sizeof(key));
	} else {
		dc_log("%s: nothing can be exported", version);
	}
	openssl->ERR_pop_to_mark();
	errno = error;
}

/* That of the connection counts before that of its context, which a server may change meanwhile. */
static dc_info_callback programs_callback(const struct dc_openssl *openssl, const SSL *ssl)
{
	dc_info_callback own;

	own = (dc_info_callback)openssl->SSL_get_ex_data(ssl, openssl->own_index);
	if (!own)
		own = openssl->SSL_CTX_get_info_callback(openssl->SSL_get_SSL_CTX(ssl));
	return own;
}

static void on_info(const struct dc_openssl *openssl, SSL *ssl, int where, int value)
{
	const dc_info_callback own = programs_callback(openssl, ssl);
	const int error = errno;
	uintptr_t state = (uintptr_t)openssl->SSL_get_ex_data(ssl, openssl->state_index);

	if (where & SSL_CB_HANDSHAKE_START)
		dc_transport_watch(openssl, ssl);
	/* With 0-RTT, OpenSSL says so a first time when early data may be sent or read. */
	if ((where & SSL_CB_HANDSHAKE_DONE) && openssl->SSL_get_state(ssl) != TLS_ST_EARLY_DATA) {
		state |= HANDSHAKE_DONE;
		openssl->SSL_set_ex_data(ssl, openssl->state_index, (void *)state);
	}
	/* Done, and out of the handshake's functions: not all can be asked before. */
	if ((where == SSL_CB_CONNECT_EXIT || where == SSL_CB_ACCEPT_EXIT) && value == 1 &&
	    (state & HANDSHAKE_DONE)) {
		state &= ~HANDSHAKE_DONE;
		openssl->SSL_set_ex_data(ssl, openssl->state_index, (void *)state);
		set_key(openssl, ssl);
		dc_transport_unwatch(openssl, ssl);
	}
	errno = error;
	if (own)
		own(ssl, where, value);
}

#define ON_INFO(number)								\
	static void on_info_##number(const SSL *ssl, int where, int value)	\
	{									\
		on_info(&dc_openssls[number], (SSL *)ssl, where, value);	\
	}
DC_OPENSSLS(ON_INFO)

#define LISTED(number)	on_info_##number,
const dc_info_callback dc_on_info[] = { DC_OPENSSLS(LISTED) };

static void on_birth(void *parent, void *pointer, struct crypto_ex_data_st *data, int index,
		     long argl, void *argp)
{
	(void)pointer, (void)data, (void)index, (void)argl, (void)argp;

	newborn = parent;
}

/* Whether connections of this OpenSSL get our callback. */
static bool ready(struct dc_openssl *openssl)
{
	int keys = DC_KEYS_UNTRIED;
	unsigned int tries;

	if (__atomic_compare_exchange_n(&openssl->keys, &keys, DC_KEYS_BEING_TRIED, false,
					__ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {
		openssl->own_index = openssl->CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL, 0, NULL,
								      on_birth, NULL, NULL);
		openssl->state_index = openssl->CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL, 0, NULL,
									NULL, NULL, NULL);
		keys = openssl->own_index < 0 || openssl->state_index < 0 ? DC_KEYS_NEVER :
									   DC_KEYS_READY;
		__atomic_store_n(&openssl->keys, keys, __ATOMIC_RELEASE);
	}
	/* Another thread tries; but if that thread isn't in this process, see fork(2), it never ends. */
	for (tries = 0; keys == DC_KEYS_BEING_TRIED && tries < 100000; tries++) {
		sched_yield();
		keys = __atomic_load_n(&openssl->keys, __ATOMIC_ACQUIRE);
	}
	return keys == DC_KEYS_READY;
}

/*
 * Gives a connection that was just made, so that nobody else uses it, our callback. That it went by
 * on_birth() shows that its libssl works with the libcrypto that we think, so its BIOs can be touched.
 */
static void adopt(struct dc_openssl *openssl, SSL *ssl)
{
	/* Some builds of libssl come here for their own calls, too: then it has it already. */
	if (!ssl || newborn != ssl ||
	    openssl->SSL_get_info_callback(ssl) == openssl->on_info || openssl->SSL_is_dtls(ssl) ||
	    (openssl->SSL_is_quic && openssl->SSL_is_quic(ssl)) ||
	    !openssl->SSL_set_ex_data(ssl, openssl->own_index,
				      (void *)openssl->SSL_get_info_callback(ssl)) ||
	    !openssl->SSL_set_ex_data(ssl, openssl->state_index, NULL))
		return;
	openssl->SSL_set_info_callback(ssl, openssl->on_info);
}

static bool adopted(const struct dc_openssl *openssl, const SSL *ssl)
{
	return openssl && __atomic_load_n(&openssl->keys, __ATOMIC_ACQUIRE) == DC_KEYS_READY &&
	       openssl->SSL_get_info_callback(ssl) == openssl->on_info;
}

/* The program's function, to be called below. */
#define NEXT_OF(name, openssl)							\
	((typeof(&name))dc_openssl_next(DC_##name, openssl, __builtin_return_address(0)))

OPENSSL_3(SSL_new);
SSL *dc_SSL_new(SSL_CTX *context)
{
	struct dc_openssl *openssl = dc_openssl_of_context(context);
	const typeof(&SSL_new) next = NEXT_OF(SSL_new, openssl);
	const bool watched = openssl && ready(openssl);
	SSL *ssl;

	newborn = NULL;
	ssl = next ? next(context) : NULL;
	if (watched)
		adopt(openssl, ssl);
	return ssl;
}

/* These make a connection inside libssl, which newborn points to. */
#define MAKE(name, context, ...) ({						\
	struct dc_openssl *openssl = dc_openssl_of_context(context);		\
	const typeof(&name) next = NEXT_OF(name, openssl);			\
	const bool watched = openssl && ready(openssl);				\
	BIO *bio;								\
										\
	newborn = NULL;								\
	bio = next ? next(context, ##__VA_ARGS__) : NULL;			\
	if (watched && bio)							\
		adopt(openssl, newborn);					\
	bio;									\
})

OPENSSL_3(BIO_new_ssl);
BIO *dc_BIO_new_ssl(SSL_CTX *context, int client)
{
	return MAKE(BIO_new_ssl, context, client);
}

OPENSSL_3(BIO_new_ssl_connect);
BIO *dc_BIO_new_ssl_connect(SSL_CTX *context)
{
	return MAKE(BIO_new_ssl_connect, context);
}

OPENSSL_3(BIO_new_buffer_ssl_connect);
BIO *dc_BIO_new_buffer_ssl_connect(SSL_CTX *context)
{
	return MAKE(BIO_new_buffer_ssl_connect, context);
}

OPENSSL_3(SSL_set_info_callback);
void dc_SSL_set_info_callback(SSL *ssl, dc_info_callback own)
{
	struct dc_openssl *openssl = dc_openssl_of_connection(ssl);
	const typeof(&SSL_set_info_callback) next = NEXT_OF(SSL_set_info_callback, openssl);

	if (adopted(openssl, ssl))
		openssl->SSL_set_ex_data(ssl, openssl->own_index, (void *)own);
	else if (next)
		next(ssl, own);
}

OPENSSL_3(SSL_get_info_callback);
dc_info_callback dc_SSL_get_info_callback(const SSL *ssl)
{
	struct dc_openssl *openssl = dc_openssl_of_connection(ssl);
	const typeof(&SSL_get_info_callback) next = NEXT_OF(SSL_get_info_callback, openssl);

	if (adopted(openssl, ssl))
		return (dc_info_callback)openssl->SSL_get_ex_data(ssl, openssl->own_index);
	return next ? next(ssl) : NULL;
}
