/* What the test programs share: a check that says where it failed, and pairs of connected sockets. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                               \
    do {                                                                                               \
        if (!(condition)) {                                                                            \
            fprintf(stderr, "%s:%d: %s (errno %d, %s)\n", __FILE__, __LINE__, #condition, errno,       \
                    strerror(errno));                                                                  \
            _exit(1);                                                                                  \
        }                                                                                              \
    } while (0)

/* An operation that has to fail in a certain way. */
#define FAILS(expression, error)                                                                       \
    do {                                                                                               \
        errno = 0;                                                                                     \
        CHECK((expression) == -1);                                                                     \
        CHECK(errno == (error));                                                                       \
    } while (0)

#define HERE "10.99.0.1"
#define SHARED __attribute__((unused)) static

SHARED struct sockaddr_in at(const char *address, int port) {
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(port)};
    CHECK(inet_pton(AF_INET, address, &sin.sin_addr) == 1);
    return sin;
}

/* True if the descriptor really is an anchor, not a socket of the kernel's TCP: asked past the library. */
SHARED int is_accelerated(int fd) {
    struct sockaddr_storage name;
    socklen_t length = sizeof name;
    CHECK(syscall(SYS_getsockname, fd, &name, &length) == 0);
    return name.ss_family == AF_UNIX;
}

/* A listener on a port the engine chooses. */
SHARED int listener(int *port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    CHECK(is_accelerated(fd));
    struct sockaddr_in sin = at("0.0.0.0", 0);
    CHECK(bind(fd, (struct sockaddr *)&sin, sizeof sin) == 0);
    CHECK(listen(fd, 16) == 0);
    socklen_t length = sizeof sin;
    CHECK(getsockname(fd, (struct sockaddr *)&sin, &length) == 0);
    *port = ntohs(sin.sin_port);
    CHECK(*port != 0);
    return fd;
}

SHARED int dial(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    struct sockaddr_in sin = at(HERE, port);
    CHECK(connect(fd, (struct sockaddr *)&sin, sizeof sin) == 0);
    return fd;
}

/* Two connected sockets. */
SHARED void join_pair(int pair[2]) {
    int port, server = listener(&port);
    pair[0] = dial(port);
    pair[1] = accept(server, NULL, NULL);
    CHECK(pair[1] >= 0);
    CHECK(is_accelerated(pair[0]) && is_accelerated(pair[1]));
    CHECK(close(server) == 0);
}

SHARED void write_all(int fd, const void *bytes, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t written = write(fd, (const char *)bytes + done, length - done);
        CHECK(written > 0);
        done += written;
    }
}

SHARED void read_all(int fd, void *bytes, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t got = read(fd, (char *)bytes + done, length - done);
        CHECK(got > 0);
        done += got;
    }
}

SHARED void nap(int milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

/* A child that ran to its end. */
SHARED void reap(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Epoll members whose data name their descriptor. */
SHARED void add(int epfd, int fd, unsigned events) {
    struct epoll_event event = {.events = events, .data.u64 = 0xabcd000000000000ull | fd};
    CHECK(epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) == 0);
}

SHARED void modify(int epfd, int fd, unsigned events) {
    struct epoll_event event = {.events = events, .data.u64 = 0xabcd000000000000ull | fd};
    CHECK(epoll_ctl(epfd, EPOLL_CTL_MOD, fd, &event) == 0);
}

/* Waits for exactly one event, and checks whose and which. */
SHARED void expect(int epfd, int fd, unsigned events) {
    struct epoll_event got[4];
    CHECK(epoll_wait(epfd, got, 4, 10000) == 1);
    CHECK(got[0].data.u64 == (0xabcd000000000000ull | fd));
    CHECK(got[0].events == events);
}

SHARED void expect_nothing(int epfd) {
    struct epoll_event got[4];
    CHECK(epoll_wait(epfd, got, 4, 0) == 0);
    CHECK(epoll_wait(epfd, got, 4, 20) == 0);
}

struct test {
    const char *name;
    void (*run)(void);
};

#define CASE(name) {#name, name}

/* Runs the case that the command line names. */
SHARED int run_case(const struct test *tests, int argc, char **argv) {
    CHECK(argc > 1);
    for (; tests->name; tests++) {
        if (strcmp(tests->name, argv[1]) == 0) {
            tests->run();
            return 0;
        }
    }
    fprintf(stderr, "no case %s\n", argv[1]);
    return 2;
}
