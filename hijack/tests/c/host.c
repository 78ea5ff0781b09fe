/* What stays on the host, what strict refuses, and what happens when something runs out. */
#include "check.h"

#include <sys/resource.h>

static int open_until_full(int *fds, int most) {
    int count = 0;
    while (count < most && (fds[count] = socket(AF_INET, SOCK_STREAM, 0)) >= 0)
        count++;
    CHECK(count < most && errno == EMFILE);
    return count;
}

static void descriptors_run_out(void) {
    int port, server = listener(&port), fds[200];
    struct rlimit few = {64, 64};
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    CHECK(fcntl(server, F_SETFL, O_NONBLOCK) == 0);
    int client = dial(port);
    int first = open_until_full(fds, 200);
    CHECK(first > 20);
    /* The connection that found no descriptor stays in the queue. */
    nap(50);
    FAILS(accept(server, NULL, NULL), EMFILE);
    CHECK(close(fds[--first]) == 0);
    int other = accept(server, NULL, NULL);
    CHECK(other >= 0);
    write_all(client, "x", 1);
    CHECK(read(other, &(char){0}, 1) == 1);
    CHECK(close(other) == 0);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < first; i++)
            CHECK(close(fds[i]) == 0);
        int again = open_until_full(fds, 200);
        /* Nothing leaks: as many fit each time, give or take what lies in the pool. */
        CHECK(again + 1 >= first - 16 && again <= first + 16);
        first = again;
    }
}

/* The session has 8 places for sockets. */
static void slots_run_out(void) {
    int fds[12];
    for (int i = 0; i < 12; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(fds[i] >= 0);
        CHECK(is_accelerated(fds[i]) == (i < 8));
    }
    for (int i = 0; i < 12; i++)
        CHECK(close(fds[i]) == 0);
    int fd = -1;
    for (int tries = 0; tries < 500; tries++) {
        fd = socket(AF_INET, SOCK_STREAM, 0);
        if (is_accelerated(fd))
            return;
        CHECK(close(fd) == 0);
        nap(10);
    }
    CHECK(!"the places come back");
}

/* A listener of the kernel's on loopback, made past the library. */
static int kernel_listener(int *port) {
    int fd = syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in sin = at("127.0.0.1", *port);
    int on = 1;
    CHECK(syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    CHECK(syscall(SYS_bind, fd, &sin, sizeof sin) == 0);
    CHECK(syscall(SYS_listen, fd, 8) == 0);
    socklen_t length = sizeof sin;
    CHECK(syscall(SYS_getsockname, fd, &sin, &length) == 0);
    *port = ntohs(sin.sin_port);
    return fd;
}

static void loopback_stays_on_the_host(void) {
    int port = 0, server = kernel_listener(&port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1, value = 0;
    CHECK(fd >= 0);
    int copy = dup(fd), epfd = epoll_create1(0);
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    struct epoll_event event = {.events = EPOLLOUT, .data.u64 = 77}, got;
    CHECK(epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) == 0);
    struct sockaddr_in sin = at("127.0.0.1", port);
    int result = connect(fd, (struct sockaddr *)&sin, sizeof sin);
    CHECK(result == 0 || errno == EINPROGRESS);
    CHECK(!is_accelerated(fd) && !is_accelerated(copy));
    /* Options, flags and memberships have come along. */
    CHECK(epoll_wait(epfd, &got, 1, 10000) == 1 && got.data.u64 == 77 && got.events & EPOLLOUT);
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &(socklen_t){sizeof value}) == 0 && value != 0);
    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK && fcntl(fd, F_GETFD) == FD_CLOEXEC && fcntl(copy, F_GETFD) == 0);
    int other = accept(server, NULL, NULL);
    CHECK(other >= 0);
    write_all(copy, "hello", 5);
    char buffer[8];
    read_all(other, buffer, 5);
    /* A server that binds loopback is the host's as well. */
    int local = socket(AF_INET, SOCK_STREAM, 0);
    sin = at("127.0.0.1", 0);
    CHECK(bind(local, (struct sockaddr *)&sin, sizeof sin) == 0);
    CHECK(!is_accelerated(local) && listen(local, 4) == 0);
    CHECK(epoll_ctl(epfd, EPOLL_CTL_DEL, fd, NULL) == 0);
    /* So are other families and types. */
    int udp = socket(AF_INET, SOCK_DGRAM, 0), v6 = socket(AF_INET6, SOCK_STREAM, 0), local_pair[2];
    CHECK(udp >= 0 && !is_accelerated(udp));
    CHECK(v6 < 0 || !is_accelerated(v6));
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, local_pair) == 0);
}

static void ruled_out(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(is_accelerated(fd));
    struct sockaddr_in sin = at("0.0.0.0", 7777);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) == 0);
    CHECK(bind(fd, (struct sockaddr *)&sin, sizeof sin) == 0);
    CHECK(!is_accelerated(fd) && listen(fd, 4) == 0);
    int port, server = listener(&port);
    CHECK(is_accelerated(server));
}

/* A program that has no other socket. */
static void ipv6_alone(void) {
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    CHECK(fd >= 0 && !is_accelerated(fd));
}

static void strict_with_engine(void) {
    FAILS(socket(AF_INET6, SOCK_STREAM, 0), EPROTONOSUPPORT);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(is_accelerated(fd));
    struct sockaddr_in sin = at("127.0.0.1", 80);
    FAILS(connect(fd, (struct sockaddr *)&sin, sizeof sin), ENETUNREACH);
    CHECK(is_accelerated(fd));
    CHECK(socket(AF_INET, SOCK_DGRAM, 0) >= 0);
}

static void strict_without_engine(void) {
    FAILS(socket(AF_INET, SOCK_STREAM, 0), ENETDOWN);
    CHECK(socket(AF_UNIX, SOCK_STREAM, 0) >= 0);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {CASE(descriptors_run_out),
                                        CASE(slots_run_out),
                                        CASE(loopback_stays_on_the_host),
                                        CASE(ruled_out),
                                        CASE(ipv6_alone),
                                        CASE(strict_with_engine),
                                        CASE(strict_without_engine),
                                        {0}};
    return run_case(tests, argc, argv);
}
