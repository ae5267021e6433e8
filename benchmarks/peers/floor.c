/* The floor: what the broker itself gives on this machine, from C over librabbitmq.
 *
 * Direct reply-to, prefetch 100, acks one by one after the handling; messages go to a durable queue, persistent, with
 * confirms on, 1000 of them unconfirmed.  The roles and the protocol are those of the package common.
 * Build: cc -O2 -Wall -o floor floor.c -lrabbitmq
 */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define RPC "floor_rpc"
#define WORK "floor_work"
#define HEAD_FORMAT "{\"params\": [%d, %d"
#define HEAD "{\"params\": [1, 2"
#define WIDTH 64
#define UNCONFIRMED 1000
#define SLOTS 512

static amqp_connection_state_t conn;
static volatile int64_t *slots;
static amqp_bytes_t body; /* what every call and message carries */

static void die(const char *what) { fprintf(stderr, "%s failed\n", what); exit(1); }

static void ok(const char *what)
{
    if (amqp_get_rpc_reply(conn).reply_type != AMQP_RESPONSE_NORMAL) die(what);
}

static const char *setting(const char *name, const char *otherwise)
{
    const char *v = getenv(name);
    return v ? v : otherwise;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void connect_broker(void)
{
    conn = amqp_new_connection();
    amqp_socket_t *s = amqp_tcp_socket_new(conn);
    char host[64] = "127.0.0.1";
    int port = 5672;
    sscanf(setting("PEER_HOSTS", ""), "%63[^:]:%d", host, &port);
    if (amqp_socket_open(s, host, port)) die("open");
    if (amqp_login(conn, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type
        != AMQP_RESPONSE_NORMAL) die("login");
    amqp_channel_open(conn, 1);
    ok("channel");
}

static void map_counter(void)
{
    int fd = open(getenv("PEER_COUNTER"), O_RDWR);
    slots = mmap(NULL, SLOTS * 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (slots == MAP_FAILED) die("counter");
}

static int64_t total(void)
{
    int64_t n = 0;
    for (int i = 0; i < SLOTS; i++) n += slots[i];
    return n;
}

static amqp_bytes_t bytes(const char *s) { return amqp_cstring_bytes(s); }

/* {"params": [1, 2]}, or with a text as third, so that the params have as many bytes as wanted (10 at least). */
static void make_body(size_t size)
{
    free(body.bytes);
    body.bytes = malloc(size + 64);
    strcpy(body.bytes, HEAD);
    if (size) {
        strcat(body.bytes, ", \"");
        memset((char *)body.bytes + strlen(HEAD) + 3, '.', size - 10);
        strcpy((char *)body.bytes + strlen(HEAD) + 3 + size - 10, "\"");
    }
    strcat(body.bytes, "]}");
    body.len = strlen(body.bytes);
}

static int sum(amqp_bytes_t got)
{
    char text[64];
    int a, b;
    size_t n = got.len < sizeof text - 1 ? got.len : sizeof text - 1;
    memcpy(text, got.bytes, n);
    text[n] = 0;
    return sscanf(text, HEAD_FORMAT, &a, &b) == 2 ? a + b : -1;
}

/* ------------------------------------------------------------------ server */

static void server(void)
{
    connect_broker();
    map_counter();
    amqp_basic_qos(conn, 1, 0, 100, 0);
    amqp_queue_declare(conn, 1, bytes(WORK), 0, 1, 0, 0, amqp_empty_table);
    amqp_queue_declare(conn, 1, bytes(RPC), 0, 0, 0, 0, amqp_empty_table);
    amqp_basic_consume(conn, 1, bytes(WORK), bytes("work"), 0, 0, 0, amqp_empty_table);
    amqp_basic_consume(conn, 1, bytes(RPC), bytes("rpc"), 0, 0, 0, amqp_empty_table);
    ok("consume");
    for (;;) {
        amqp_envelope_t e;
        amqp_maybe_release_buffers(conn);
        if (amqp_consume_message(conn, &e, NULL, 0).reply_type != AMQP_RESPONSE_NORMAL) die("consume");
        if (e.consumer_tag.len == 4) { /* work */
            if (sum(e.message.body) != 3) die("message");
            slots[getpid() % SLOTS]++;
        } else {
            char answer[16];
            amqp_basic_properties_t p = {._flags = AMQP_BASIC_CORRELATION_ID_FLAG,
                                         .correlation_id = e.message.properties.correlation_id};
            snprintf(answer, sizeof answer, "%d", sum(e.message.body));
            amqp_basic_publish(conn, 1, amqp_empty_bytes, e.message.properties.reply_to, 0, 0, &p, bytes(answer));
        }
        amqp_basic_ack(conn, 1, e.delivery_tag, 0);
        amqp_destroy_envelope(&e);
    }
}

/* ------------------------------------------------------------------ client */

static uint64_t next_id;
static double begun[WIDTH];

static void start_call(void)
{
    char id[24];
    amqp_basic_properties_t p = {._flags = AMQP_BASIC_CORRELATION_ID_FLAG | AMQP_BASIC_REPLY_TO_FLAG,
                                 .reply_to = bytes("amq.rabbitmq.reply-to")};
    snprintf(id, sizeof id, "%llu", (unsigned long long)next_id);
    p.correlation_id = bytes(id);
    begun[next_id++ % WIDTH] = now();
    if (amqp_basic_publish(conn, 1, amqp_empty_bytes, bytes(RPC), 0, 0, &p, body)) die("publish");
}

/* Waits for one answer, checks it, returns its latency. */
static double finish_call(void)
{
    amqp_envelope_t e;
    char id[24] = {0};
    amqp_maybe_release_buffers(conn);
    if (amqp_consume_message(conn, &e, NULL, 0).reply_type != AMQP_RESPONSE_NORMAL) die("reply");
    amqp_bytes_t c = e.message.properties.correlation_id;
    memcpy(id, c.bytes, c.len < 23 ? c.len : 23);
    double t = now() - begun[strtoull(id, NULL, 10) % WIDTH];
    if (e.message.body.len != 1 || *(char *)e.message.body.bytes != '3') die("answer");
    amqp_destroy_envelope(&e);
    return t;
}

static float *spent;
static size_t spent_room;

static size_t calls(double seconds, int width)
{
    double deadline = now() + seconds;
    size_t n = 0;
    for (int i = 0; i < width; i++) start_call();
    for (int flying = width; flying;) {
        if (n == spent_room) spent = realloc(spent, (spent_room = spent_room * 2 + 4096) * sizeof *spent);
        spent[n++] = finish_call();
        if (now() < deadline) start_call();
        else flying--;
    }
    return n;
}

/* Publishes count messages, at most window of them unconfirmed.  Channel 2 is in confirm mode. */
static uint64_t tag, lowest = 1, open_count;
static char is_open[1 << 16];

static void confirm(uint64_t t)
{
    open_count -= is_open[t & 0xffff];
    is_open[t & 0xffff] = 0;
}

static void wait_confirm(void)
{
    amqp_frame_t f;
    amqp_maybe_release_buffers(conn);
    if (amqp_simple_wait_frame(conn, &f)) die("confirm");
    if (f.frame_type != AMQP_FRAME_METHOD || f.payload.method.id != AMQP_BASIC_ACK_METHOD) die("ack");
    amqp_basic_ack_t *a = f.payload.method.decoded;
    if (a->multiple) while (lowest <= a->delivery_tag) confirm(lowest++);
    else confirm(a->delivery_tag);
}

static void publish(size_t count, uint64_t window)
{
    amqp_basic_properties_t p = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG, .delivery_mode = 2};
    while (count--) {
        while (open_count >= window) wait_confirm();
        if (amqp_basic_publish(conn, 2, amqp_empty_bytes, bytes(WORK), 0, 0, &p, body)) die("publish");
        is_open[++tag & 0xffff] = 1;
        open_count++;
    }
    while (open_count) wait_confirm();
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static int hear(char *phase, double *seconds, double *warm, size_t *size)
{
    char line[256], *p;
    if (!fgets(line, sizeof line, stdin)) return 0;
    *phase = 0;
    *size = (p = strstr(line, "\"bytes\": ")) ? atol(p + 9) : 0;
    if ((p = strstr(line, "\"phase\": \""))) sscanf(p + 10, "%15[a-z0-9_]", phase);
    if ((p = strstr(line, "\"seconds\": "))) *seconds = atof(p + 11);
    if ((p = strstr(line, "\"warm\": "))) *warm = atof(p + 8);
    return 1;
}

static void say(const char *text) { printf("@%s\n", text); fflush(stdout); }

static double begin(void)
{
    char phase[16];
    double s, w;
    size_t size;
    say("{\"kind\": \"begin\"}");
    hear(phase, &s, &w, &size);
    return now();
}

static void end(size_t n, double took)
{
    printf("@{\"kind\": \"end\", \"count\": %zu, \"seconds\": %.6f}\n", n, took);
    fflush(stdout);
}

static double end_to_end(size_t n)
{
    int64_t want = total() + n;
    double t = now();
    publish(n, UNCONFIRMED);
    while (total() < want) usleep(2000);
    return now() - t;
}

static void open_all(void)
{
    connect_broker();
    amqp_basic_consume(conn, 1, bytes("amq.rabbitmq.reply-to"), amqp_empty_bytes, 0, 1, 0, amqp_empty_table);
    ok("reply-to");
    amqp_channel_open(conn, 2);
    amqp_queue_declare(conn, 2, bytes(WORK), 0, 1, 0, 0, amqp_empty_table);
    amqp_confirm_select(conn, 2);
    ok("confirms");
}

static void client(void)
{
    char phase[16];
    double seconds = 0, warm = 0, t;
    size_t n, size;
    map_counter();
    say("{\"kind\": \"imported\"}");
    while (hear(phase, &seconds, &warm, &size) && strcmp(phase, "quit")) {
        make_body(size);
        if (!strcmp(phase, "first")) {
            open_all();
            start_call();
            finish_call();
            say("{\"kind\": \"end\"}");
        } else if (!strcmp(phase, "connect")) {
            open_all();
            say("{\"kind\": \"end\"}");
        } else if (!strcmp(phase, "seq")) {
            calls(warm, 1);
            t = begin();
            n = calls(seconds, 1);
            t = now() - t;
            qsort(spent, n, sizeof *spent, by_value);
            printf("@{\"kind\": \"end\", \"count\": %zu, \"seconds\": %.6f, \"p50_ms\": %.4f, \"p99_ms\": %.4f}\n", n, t,
                   spent[n / 2] * 1e3, spent[n * 99 / 100] * 1e3);
            fflush(stdout);
        } else if (!strcmp(phase, "futures")) {
            t = begin();
            n = calls(seconds, WIDTH);
            end(n, now() - t);
        } else if (!strcmp(phase, "pub")) {
            publish(1, 1);
            t = begin();
            for (n = 0; now() < t + seconds; n += 16) publish(16, 1);
            end(n, now() - t);
        } else if (!strcmp(phase, "pubw")) {
            publish(WIDTH, WIDTH);
            t = begin();
            for (n = 0; now() < t + seconds; n += 8192) publish(8192, UNCONFIRMED);
            end(n, now() - t);
        } else if (!strcmp(phase, "e2e")) {
            double took;
            n = 1000;
            while ((took = end_to_end(n)) < seconds / 8 && n < 1000000) n *= 2;
            n = n * seconds / took;
            begin();
            took = end_to_end(n);
            end(n, took);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "server")) server();
    else if (argc > 1 && !strcmp(argv[1], "client")) client();
    else return fprintf(stderr, "usage: floor server|client\n"), 2;
    return 0;
}
