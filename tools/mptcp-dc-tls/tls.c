// SPDX-License-Identifier: GPL-2.0
/*
 * When a TLS handshake is done, its key becomes the connection's.
 *
 * OpenSSL tells the end of a handshake to an info callback, of which a context has one. All contexts
 * get the one below, and the program's own is called from there. So the end is seen whatever call
 * reached it: SSL_accept(), SSL_read(), a BIO, and in TLS 1.2 also that of another handshake on the
 * same connection, which replaces the key. In TLS 1.3 a key update doesn't change what is exported.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "preload.h"

/*
 * Both ends use the same, and no context: see EXPORTER_LABEL in tools/mptcp-dc. RFC 5705,
 * section 4, reserves labels that begin so for use without registration.
 */
#define EXPORTER_LABEL	"EXPERIMENTAL mptcp-dc key"
#define KEY_LENGTH	32

typedef void (*info_callback)(const SSL *ssl, int where, int value);

struct dc_openssl openssl;

/* Where the program's own callback is kept with a context or a connection; negative without. */
static int context_index = -1;
static int connection_index = -1;

static void find_openssl(void)
{
	/* A program that came here has it, maybe in a plug-in's scope, unseen by RTLD_NEXT. */
	void *library = dlopen("libssl.so.3", RTLD_LAZY | RTLD_NOLOAD);
	int missing = 0;

#define FIND(name)								\
	openssl.name = (typeof(&name))dlsym(library ?: RTLD_NEXT, #name);	\
	missing += !openssl.name;
	DC_OPENSSL_FUNCTIONS(FIND)
#undef FIND

	if (missing) {
		dc_log("this OpenSSL lacks %d functions: no keys from TLS", missing);
		return;
	}
	context_index = openssl.CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL_CTX, 0, NULL,
							NULL, NULL, NULL);
	connection_index = openssl.CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL, 0, NULL,
							   NULL, NULL, NULL);
}

/* Whether contexts get our callback. */
static int ready(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, find_openssl);
	return context_index >= 0 && connection_index >= 0;
}

/* To compare both ends' logs: the key can't be told from it. */
static void log_key(const char *version, const unsigned char *key, int fd, int status)
{
	unsigned char hash[EVP_MAX_MD_SIZE] = { 0 };

	if (!dc_logging)
		return;
	openssl.EVP_Q_digest(NULL, "SHA256", NULL, key, KEY_LENGTH, hash, NULL);
	dc_log("socket %d: %s key with SHA-256 %02x%02x%02x%02x%02x%02x%02x%02x: %s", fd, version,
	       hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7],
	       fd < 0 ? "no socket" : status ? strerror(-status) : "set");
}

static void set_key(SSL *ssl)
{
	const char *version = openssl.SSL_get_version(ssl);
	const int error = errno;
	unsigned char key[KEY_LENGTH];
	int fd;

	openssl.ERR_set_mark();
	if (openssl.SSL_export_keying_material(ssl, key, sizeof(key), EXPORTER_LABEL,
					       strlen(EXPORTER_LABEL), NULL, 0, 0) == 1) {
		fd = dc_transport_fd(ssl);
		log_key(version, key, fd, fd < 0 ? 0 : dc_socket_set_key(fd, key, sizeof(key)));
		explicit_bzero(key, sizeof(key));
	} else {
		dc_log("%s: nothing can be exported", version);
	}
	openssl.ERR_pop_to_mark();
	errno = error;
}

/*
 * That of the connection counts before that of its context, which a server may change in the midst
 * of a handshake.
 */
static info_callback programs_callback(const SSL *ssl)
{
	void *own = openssl.SSL_get_ex_data(ssl, connection_index);

	if (!own)
		own = openssl.SSL_CTX_get_ex_data(openssl.SSL_get_SSL_CTX(ssl), context_index);
	return (info_callback)own;
}

static void on_info(const SSL *ssl, int where, int value)
{
	const info_callback own = programs_callback(ssl);

	if (where & SSL_CB_HANDSHAKE_START)
		dc_transport_watch((SSL *)ssl);
	/* With 0-RTT, OpenSSL says so a first time when early data may be sent or read. */
	if ((where & SSL_CB_HANDSHAKE_DONE) && openssl.SSL_get_state(ssl) != TLS_ST_EARLY_DATA)
		set_key((SSL *)ssl);
	if (own)
		own(ssl, where, value);
}

static SSL_CTX *prepared(SSL_CTX *context)
{
	if (context && ready())
		openssl.SSL_CTX_set_info_callback(context, on_info);
	return context;
}

OPENSSL_3(SSL_CTX_new);
SSL_CTX *dc_SSL_CTX_new(const SSL_METHOD *method)
{
	ready();
	return prepared(openssl.SSL_CTX_new(method));
}

OPENSSL_3(SSL_CTX_new_ex);
SSL_CTX *dc_SSL_CTX_new_ex(OSSL_LIB_CTX *library, const char *properties,
			   const SSL_METHOD *method)
{
	ready();
	return prepared(openssl.SSL_CTX_new_ex(library, properties, method));
}

OPENSSL_3(SSL_CTX_set_info_callback);
void dc_SSL_CTX_set_info_callback(SSL_CTX *context, info_callback own)
{
	if (ready())
		openssl.SSL_CTX_set_ex_data(context, context_index, (void *)own);
	else
		openssl.SSL_CTX_set_info_callback(context, own);
}

OPENSSL_3(SSL_CTX_get_info_callback);
info_callback dc_SSL_CTX_get_info_callback(SSL_CTX *context)
{
	if (ready())
		return (info_callback)openssl.SSL_CTX_get_ex_data(context, context_index);
	return openssl.SSL_CTX_get_info_callback(context);
}

OPENSSL_3(SSL_set_info_callback);
void dc_SSL_set_info_callback(SSL *ssl, info_callback own)
{
	if (ready())
		openssl.SSL_set_ex_data(ssl, connection_index, (void *)own);
	else
		openssl.SSL_set_info_callback(ssl, own);
}

OPENSSL_3(SSL_get_info_callback);
info_callback dc_SSL_get_info_callback(const SSL *ssl)
{
	if (ready())
		return (info_callback)openssl.SSL_get_ex_data(ssl, connection_index);
	return openssl.SSL_get_info_callback(ssl);
}
