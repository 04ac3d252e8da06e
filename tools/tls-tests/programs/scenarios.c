// SPDX-License-Identifier: GPL-2.0
/*
 * TLS connections as unusual programs make them, for the tests of mptcp-dc-tls. Each scenario connects
 * two TLS ends over 127.0.0.1 in one thread, sends a message each way, and says on standard output what
 * there is to compare:
 *
 *	NAME: fd 5: key 0123456789abcdef	of an end: its socket, and the hash of what it exports
 *
 * It is a plug-in for loader.c, or part of it. Reads cert.pem and key.pem in the present directory.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>

#define LABEL	"EXPERIMENTAL mptcp-dc key"

static void fail(const char *what)
{
	fflush(stdout);
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	ERR_print_errors_fp(stderr);
	exit(1);
}

#define MUST(holds)	do { if (!(holds)) fail(#holds); } while (0)

/* ---- sockets ---------------------------------------------------------------------------------- */

struct ends {
	int client, server;
};

static struct ends connected(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	struct ends ends;
	int listener;

	MUST((listener = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
	MUST(bind(listener, (struct sockaddr *)&address, size) == 0);
	MUST(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
	MUST(listen(listener, 1) == 0);
	MUST((ends.client = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
	MUST(connect(ends.client, (struct sockaddr *)&address, size) == 0);
	MUST((ends.server = accept(listener, NULL, NULL)) >= 0);
	close(listener);
	MUST(fcntl(ends.client, F_SETFL, O_NONBLOCK) == 0);
	MUST(fcntl(ends.server, F_SETFL, O_NONBLOCK) == 0);
	return ends;
}

static void hang_up(struct ends ends)
{
	close(ends.client);
	close(ends.server);
}

/* ---- a BIO of the program's own ---------------------------------------------------------------- */

enum sending {
	BY_SEND, BY_SENDTO, BY_SENDMSG, BY_SENDMMSG, BY_WRITE, BY_WRITEV,
};

struct own_bio {
	int fd;
	enum sending how;
	int also_to;	/* gets the same bytes first, by write(); or -1 */
};

static ssize_t send_by(enum sending how, int fd, const void *data, size_t length)
{
	/* The first part is too short to be told by. */
	const size_t first = length < 5 ? length : 5;
	struct iovec parts[] = { { (void *)data, first }, { (char *)data + first, length - first } };
	struct mmsghdr message = { .msg_hdr = { .msg_iov = parts, .msg_iovlen = 2 } };

	switch (how) {
	case BY_SEND:
		return send(fd, data, length, 0);
	case BY_SENDTO:
		return sendto(fd, data, length, MSG_NOSIGNAL, NULL, 0);
	case BY_SENDMSG:
		return sendmsg(fd, &message.msg_hdr, 0);
	case BY_SENDMMSG:
		return sendmmsg(fd, &message, 1, 0) == 1 ? (ssize_t)message.msg_len : -1;
	case BY_WRITE:
		return write(fd, data, length);
	case BY_WRITEV:
		return writev(fd, parts, 2);
	}
	return -1;
}

static int own_write(BIO *bio, const char *data, int length)
{
	struct own_bio *own = BIO_get_data(bio);
	ssize_t sent;

	if (own->also_to >= 0)
		MUST(write(own->also_to, data, length) == length);
	sent = send_by(own->how, own->fd, data, length);
	BIO_clear_retry_flags(bio);
	if (sent < 0 && errno == EAGAIN)
		BIO_set_retry_write(bio);
	return (int)sent;
}

static int own_read(BIO *bio, char *data, int length)
{
	struct own_bio *own = BIO_get_data(bio);
	const ssize_t got = recv(own->fd, data, length, 0);

	BIO_clear_retry_flags(bio);
	if (got < 0 && errno == EAGAIN)
		BIO_set_retry_read(bio);
	return (int)got;
}

static long own_ctrl(BIO *bio, int command, long number, void *pointer)
{
	(void)bio, (void)number, (void)pointer;
	return command == BIO_CTRL_FLUSH;
}

static int own_create(BIO *bio)
{
	BIO_set_init(bio, 1);
	return 1;
}

static BIO *own_bio(int fd, enum sending how, int also_to)
{
	static BIO_METHOD *method;
	struct own_bio *own = malloc(sizeof(*own));
	BIO *bio;

	if (!method) {
		method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "the program's own");
		BIO_meth_set_write(method, own_write);
		BIO_meth_set_read(method, own_read);
		BIO_meth_set_ctrl(method, own_ctrl);
		BIO_meth_set_create(method, own_create);
	}
	MUST(own && (bio = BIO_new(method)));
	*own = (struct own_bio){ fd, how, also_to };
	BIO_set_data(bio, own);
	return bio;
}

/* ---- TLS --------------------------------------------------------------------------------------- */

static SSL_CTX *context(bool server)
{
	SSL_CTX *context = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());

	MUST(context);
	if (server) {
		MUST(SSL_CTX_use_certificate_file(context, "cert.pem", SSL_FILETYPE_PEM) == 1);
		MUST(SSL_CTX_use_PrivateKey_file(context, "key.pem", SSL_FILETYPE_PEM) == 1);
		SSL_CTX_set_num_tickets(context, 0);
	} else {
		MUST(SSL_CTX_load_verify_locations(context, "cert.pem", NULL) == 1);
		SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	}
	return context;
}

struct pair {
	SSL_CTX *contexts[2];
	SSL *client, *server;
};

static struct pair pair(void)
{
	struct pair pair = { .contexts = { context(false), context(true) } };

	MUST(pair.client = SSL_new(pair.contexts[0]));
	MUST(pair.server = SSL_new(pair.contexts[1]));
	SSL_set_connect_state(pair.client);
	SSL_set_accept_state(pair.server);
	return pair;
}

static void release(struct pair *pair)
{
	SSL_free(pair->client);
	SSL_free(pair->server);
	SSL_CTX_free(pair->contexts[0]);
	SSL_CTX_free(pair->contexts[1]);
}

static bool goes_on(SSL *ssl, int result)
{
	const int error = SSL_get_error(ssl, result);

	return error == SSL_ERROR_NONE || error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

static void shake_hands(SSL *client, SSL *server)
{
	unsigned int turn;

	for (turn = 0; !SSL_is_init_finished(client) || !SSL_is_init_finished(server); turn++) {
		MUST(turn < 10000);
		MUST(goes_on(client, SSL_do_handshake(client)));
		MUST(goes_on(server, SSL_do_handshake(server)));
		poll(NULL, 0, turn > 20);
	}
}

static void pass(SSL *from, SSL *to, const char *text)
{
	char got[100];
	int length;

	MUST(SSL_write(from, text, (int)strlen(text)) == (int)strlen(text));
	do {
		length = SSL_read(to, got, sizeof(got));
		MUST(length > 0 || SSL_get_error(to, length) == SSL_ERROR_WANT_READ);
	} while (length <= 0);
	MUST(length == (int)strlen(text) && memcmp(got, text, length) == 0);
}

static void exchange(SSL *client, SSL *server)
{
	pass(client, server, "there");
	pass(server, client, "and back");
}

static void report(const char *name, int fd, SSL *ssl)
{
	unsigned char key[32], hash[EVP_MAX_MD_SIZE];
	int number;

	MUST(SSL_export_keying_material(ssl, key, sizeof(key), LABEL, strlen(LABEL), NULL, 0, 0) == 1);
	MUST(EVP_Digest(key, sizeof(key), hash, NULL, EVP_sha256(), NULL));
	printf("%s: fd %d: key ", name, fd);
	for (number = 0; number < 8; number++)
		printf("%02x", hash[number]);
	printf("\n");
	fflush(stdout);
}

/* What most do: OpenSSL gets the sockets. */
static void over_sockets(const char *name, struct pair *pair)
{
	struct ends ends = connected();

	MUST(SSL_set_fd(pair->client, ends.client) && SSL_set_fd(pair->server, ends.server));
	shake_hands(pair->client, pair->server);
	exchange(pair->client, pair->server);
	report(name, ends.client, pair->client);
	report(name, ends.server, pair->server);
	hang_up(ends);
}

static void plain(void)
{
	struct pair one = pair();

	over_sockets("plain", &one);
	release(&one);
}

/* ---- scenarios: BIOs ----------------------------------------------------------------------------- */

static void over_own_bios(const char *name, enum sending how, int client_also_to, int server_also_to)
{
	struct ends ends = connected();
	struct pair one = pair();
	BIO *client = own_bio(ends.client, how, client_also_to);
	BIO *server = own_bio(ends.server, how, server_also_to);

	SSL_set_bio(one.client, client, client);
	SSL_set_bio(one.server, server, server);
	shake_hands(one.client, one.server);
	exchange(one.client, one.server);
	report(name, ends.client, one.client);
	report(name, ends.server, one.server);
	release(&one);
	hang_up(ends);
}

static void senders(void)
{
	static const char *const names[] = { "send", "sendto", "sendmsg", "sendmmsg", "write", "writev" };
	unsigned int how;

	for (how = BY_SEND; how <= BY_WRITEV; how++)
		over_own_bios(names[how], how, -1, -1);
}

/* All that is sent is logged first: into a file; into a socket that is none of TCP. */
static void logged(void)
{
	int file, pair[2];

	MUST((file = open("log", O_CREAT | O_WRONLY, 0600)) >= 0);
	over_own_bios("file", BY_SEND, file, file);
	MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
	MUST(fcntl(pair[0], F_SETFL, O_NONBLOCK) == 0);
	over_own_bios("datagrams", BY_SEND, pair[0], -1);
	close(file);
	close(pair[0]);
	close(pair[1]);
}

/* All that is sent goes to two connections: which is TLS's? */
static void mirrored(void)
{
	struct ends mirror = connected();

	over_own_bios("mirrored", BY_SEND, mirror.client, mirror.server);
	hang_up(mirror);
}

/* TLS whose transport is another's BIO_f_ssl(). */
static void within(const char *name, struct ends ends, SSL *client, SSL *server)
{
	struct pair inner = pair();
	BIO *bios[2] = { BIO_new(BIO_f_ssl()), BIO_new(BIO_f_ssl()) };

	MUST(bios[0] && bios[1]);
	MUST(BIO_set_ssl(bios[0], client, BIO_NOCLOSE) && BIO_set_ssl(bios[1], server, BIO_NOCLOSE));
	SSL_set_bio(inner.client, bios[0], bios[0]);
	SSL_set_bio(inner.server, bios[1], bios[1]);
	shake_hands(inner.client, inner.server);
	exchange(inner.client, inner.server);
	report(name, ends.client, inner.client);
	report(name, ends.server, inner.server);
	release(&inner);
}

static void nested(void)
{
	struct ends ends = connected();
	struct pair outer = pair();

	MUST(SSL_set_fd(outer.client, ends.client) && SSL_set_fd(outer.server, ends.server));
	shake_hands(outer.client, outer.server);
	report("outer", ends.client, outer.client);
	report("outer", ends.server, outer.server);
	within("inner", ends, outer.client, outer.server);
	release(&outer);
	hang_up(ends);
}

/* The same, but the outer's BIO is the program's own. */
static void nested_in_own(void)
{
	struct ends ends = connected();
	struct pair outer = pair();
	BIO *client = own_bio(ends.client, BY_SEND, -1), *server = own_bio(ends.server, BY_SEND, -1);

	SSL_set_bio(outer.client, client, client);
	SSL_set_bio(outer.server, server, server);
	shake_hands(outer.client, outer.server);
	report("outer", ends.client, outer.client);
	report("outer", ends.server, outer.server);
	within("inner", ends, outer.client, outer.server);
	release(&outer);
	hang_up(ends);
}

/* OpenSSL's buffer between TLS and socket. */
static void buffered(void)
{
	struct ends ends = connected();
	struct pair one = pair();
	BIO *client = BIO_push(BIO_new(BIO_f_buffer()), BIO_new_socket(ends.client, BIO_NOCLOSE));
	BIO *server = BIO_push(BIO_new(BIO_f_buffer()), BIO_new_socket(ends.server, BIO_NOCLOSE));

	SSL_set_bio(one.client, client, client);
	SSL_set_bio(one.server, server, server);
	shake_hands(one.client, one.server);
	report("buffered", ends.client, one.client);
	report("buffered", ends.server, one.server);
	release(&one);
	hang_up(ends);
}

/* One socket to read, another to write: neither is the connection. */
static void two_sockets(void)
{
	struct ends there = connected(), back = connected();
	struct pair one = pair();

	MUST(SSL_set_wfd(one.client, there.client) && SSL_set_rfd(one.server, there.server));
	MUST(SSL_set_wfd(one.server, back.server) && SSL_set_rfd(one.client, back.client));
	shake_hands(one.client, one.server);
	exchange(one.client, one.server);
	report("two sockets", there.client, one.client);
	report("two sockets", back.server, one.server);
	release(&one);
	hang_up(there);
	hang_up(back);
}

/* The client is BIO_new_ssl_connect()'s. */
static void connecting_bio(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	SSL_CTX *contexts[2] = { context(false), context(true) };
	socklen_t size = sizeof(address);
	int listener, accepted = -1, fd;
	SSL *client, *server;
	unsigned int turn;
	char port[10];
	BIO *bio;

	MUST((listener = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
	MUST(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0);
	MUST(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
	snprintf(port, sizeof(port), "%d", ntohs(address.sin_port));

	MUST(bio = BIO_new_ssl_connect(contexts[0]));
	MUST(BIO_get_ssl(bio, &client) == 1);
	BIO_set_conn_hostname(bio, "127.0.0.1");
	BIO_set_conn_port(bio, port);
	BIO_set_nbio(bio, 1);
	MUST(server = SSL_new(contexts[1]));
	SSL_set_accept_state(server);
	for (turn = 0; !SSL_is_init_finished(client) || !SSL_is_init_finished(server); turn++) {
		MUST(turn < 10000);
		MUST(BIO_do_handshake(bio) == 1 || BIO_should_retry(bio));
		if (accepted < 0) {
			MUST((accepted = accept(listener, NULL, NULL)) >= 0);
			MUST(fcntl(accepted, F_SETFL, O_NONBLOCK) == 0);
			MUST(SSL_set_fd(server, accepted));
		}
		MUST(goes_on(server, SSL_do_handshake(server)));
		poll(NULL, 0, turn > 20);
	}
	exchange(client, server);
	MUST(BIO_get_fd(bio, &fd) >= 0);
	report("connecting BIO", fd, client);
	report("connecting BIO", accepted, server);
	BIO_free_all(bio);
	SSL_free(server);
	close(accepted);
	close(listener);
	SSL_CTX_free(contexts[0]);
	SSL_CTX_free(contexts[1]);
}

/* ---- scenarios: TLS ------------------------------------------------------------------------------ */

static void no_extended_master_secret(void)
{
	struct pair one = pair();

	SSL_set_max_proto_version(one.client, TLS1_2_VERSION);
	SSL_set_options(one.client, SSL_OP_NO_EXTENDED_MASTER_SECRET);
	over_sockets("no extended master secret", &one);
	release(&one);
}

static void duplicated(void)
{
	struct pair one = pair();
	SSL *client = SSL_dup(one.client);

	MUST(client);
	SSL_free(one.client);
	one.client = client;
	over_sockets("duplicated", &one);
	release(&one);
}

/* ---- scenarios: info callbacks ------------------------------------------------------------------- */

static const char *called;

static void note_call(const char *whose, int where)
{
	/* Not each step, which depend on the sockets' pace. */
	if (called != whose || !(where & SSL_CB_LOOP))
		printf(where & SSL_CB_LOOP ? " %s" : " %s:%x", whose, where);
	called = whose;
}

static void of_context(const SSL *ssl, int where, int value)
{
	(void)ssl, (void)value;
	note_call("context", where & ~(SSL_ST_CONNECT | SSL_ST_ACCEPT));
}

static void of_connection(const SSL *ssl, int where, int value)
{
	(void)ssl, (void)value;
	note_call("connection", where & ~(SSL_ST_CONNECT | SSL_ST_ACCEPT));
}

static const char *name_of(void (*callback)(const SSL *ssl, int where, int value))
{
	return !callback ? "none" : callback == of_context ? "context's" :
	       callback == of_connection ? "connection's" : "another";
}

/* Each order of setting and unsetting the callbacks of contexts and connections. */
static void callbacks(void)
{
	unsigned int choice;

	for (choice = 0; choice < 64; choice++) {
		struct ends ends = connected();
		struct pair one = { .contexts = { context(false), context(true) } };

		if (choice & 1)
			SSL_CTX_set_info_callback(one.contexts[0], of_context);
		MUST(one.client = SSL_new(one.contexts[0]));
		MUST(one.server = SSL_new(one.contexts[1]));
		SSL_set_connect_state(one.client);
		SSL_set_accept_state(one.server);
		if (choice & 2)
			SSL_set_info_callback(one.client, of_connection);
		if (choice & 4)
			SSL_CTX_set_info_callback(one.contexts[0], choice & 1 ? NULL : of_context);
		if (choice & 8)
			SSL_set_info_callback(one.client, NULL);
		printf("callbacks %u: %s, %s:", choice,
		       name_of(SSL_CTX_get_info_callback(one.contexts[0])),
		       name_of(SSL_get_info_callback(one.client)));
		called = NULL;
		MUST(SSL_set_fd(one.client, ends.client) && SSL_set_fd(one.server, ends.server));
		MUST(goes_on(one.client, SSL_do_handshake(one.client)));
		/* In the midst of the handshake */
		if (choice & 16)
			SSL_set_info_callback(one.client, choice & 2 ? NULL : of_connection);
		if (choice & 32)
			SSL_CTX_set_info_callback(one.contexts[0], choice & 1 ? NULL : of_context);
		shake_hands(one.client, one.server);
		exchange(one.client, one.server);
		printf(" - %s, %s\n", name_of(SSL_CTX_get_info_callback(one.contexts[0])),
		       name_of(SSL_get_info_callback(one.client)));
		report("callbacks", ends.client, one.client);
		report("callbacks", ends.server, one.server);
		release(&one);
		hang_up(ends);
	}
}

/* ---- scenarios: what fails ------------------------------------------------------------------------ */

/* Errors are told to whom they concern: a caller that has another OpenSSL in its place sees none. */
static void errors(void)
{
	OPENSSL_init_ssl(0, NULL);
	ERR_clear_error();
	MUST(!SSL_CTX_new(NULL));
	printf("errors: SSL_CTX_new: %d\n", ERR_GET_REASON(ERR_get_error()));
	MUST(!SSL_new(NULL));
	printf("errors: SSL_new: %d\n", ERR_GET_REASON(ERR_get_error()));
	MUST(!BIO_new_ssl(NULL, 1));
	printf("errors: BIO_new_ssl: %d\n", ERR_GET_REASON(ERR_get_error()));
	fflush(stdout);
}

static const struct {
	const char *name;
	void (*run)(void);
} scenarios[] = {
	{ "plain", plain },
	{ "senders", senders },
	{ "logged", logged },
	{ "mirrored", mirrored },
	{ "nested", nested },
	{ "nested-in-own", nested_in_own },
	{ "buffered", buffered },
	{ "two-sockets", two_sockets },
	{ "connecting-bio", connecting_bio },
	{ "no-extended-master-secret", no_extended_master_secret },
	{ "duplicated", duplicated },
	{ "callbacks", callbacks },
	{ "errors", errors },
};

int run_scenario(const char *name);
int run_scenario(const char *name)
{
	unsigned int number;

	for (number = 0; number < sizeof(scenarios) / sizeof(scenarios[0]); number++) {
		if (strcmp(scenarios[number].name, name) == 0) {
			scenarios[number].run();
			return 0;
		}
	}
	fprintf(stderr, "no such scenario: %s\n", name);
	return 2;
}
