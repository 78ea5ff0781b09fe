/* One thread, one or two sockets: making, naming, connecting, moving bytes, closing. */
#include "check.h"

#include <sys/sendfile.h>

static void socket_takes_the_lowest_number(void) {
    int first = open("/dev/null", O_RDONLY);
    CHECK(first >= 0);
    CHECK(close(first) == 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK(fd == first);
    CHECK(is_accelerated(fd));
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(fd, F_GETFL) == (O_RDWR | O_NONBLOCK));
    struct stat status;
    CHECK(fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode));
    CHECK(close(fd) == 0);
    FAILS(close(fd), EBADF);
    int plain = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    CHECK(plain == first);
    CHECK(fcntl(plain, F_GETFD) == 0);
}

static void connect_and_transfer(void) {
    int pair[2];
    join_pair(pair);
    char buffer[64];
    write_all(pair[0], "hello", 5);
    CHECK(read(pair[1], buffer, sizeof buffer) == 5);
    CHECK(memcmp(buffer, "hello", 5) == 0);
    CHECK(send(pair[1], "back", 4, MSG_NOSIGNAL) == 4);
    CHECK(recv(pair[0], buffer, 2, 0) == 2);
    CHECK(recv(pair[0], buffer + 2, 62, 0) == 2);
    CHECK(memcmp(buffer, "back", 4) == 0);
    CHECK(close(pair[0]) == 0);
    CHECK(read(pair[1], buffer, sizeof buffer) == 0);
    CHECK(close(pair[1]) == 0);
}

static void connect_refused(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in sin = at(HERE, 1);
    FAILS(connect(fd, (struct sockaddr *)&sin, sizeof sin), ECONNREFUSED);
    FAILS(getpeername(fd, (struct sockaddr *)&sin, &(socklen_t){sizeof sin}), ENOTCONN);
    CHECK(close(fd) == 0);
}

static void nonblocking_connect(void) {
    int port, server = listener(&port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in sin = at(HERE, port);
    int result = connect(fd, (struct sockaddr *)&sin, sizeof sin);
    CHECK(result == 0 || errno == EINPROGRESS);
    struct pollfd entry = {fd, POLLOUT, 0};
    CHECK(poll(&entry, 1, 5000) == 1);
    CHECK(entry.revents == POLLOUT);
    int error = 1;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error}) == 0);
    CHECK(error == 0);
    result = connect(fd, (struct sockaddr *)&sin, sizeof sin);
    CHECK(result == 0 || errno == EISCONN);
    FAILS(connect(fd, (struct sockaddr *)&sin, sizeof sin), EISCONN);
    CHECK(close(fd) == 0);

    /* Port 9 of this network never answers. */
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    sin = at(HERE, 9);
    FAILS(connect(fd, (struct sockaddr *)&sin, sizeof sin), EINPROGRESS);
    FAILS(connect(fd, (struct sockaddr *)&sin, sizeof sin), EALREADY);
    entry = (struct pollfd){fd, POLLIN | POLLOUT, 0};
    CHECK(poll(&entry, 1, 20) == 0);
    FAILS(send(fd, "x", 1, MSG_NOSIGNAL), EAGAIN);
    CHECK(close(fd) == 0);

    /* A refusal arrives through poll and SO_ERROR. */
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    sin = at(HERE, 1);
    result = connect(fd, (struct sockaddr *)&sin, sizeof sin);
    CHECK(result == -1 && (errno == EINPROGRESS || errno == ECONNREFUSED));
    if (errno == EINPROGRESS) {
        entry = (struct pollfd){fd, POLLOUT, 0};
        CHECK(poll(&entry, 1, 5000) == 1);
        CHECK(entry.revents & POLLERR);
        CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error}) == 0);
        CHECK(error == ECONNREFUSED);
    }
    CHECK(close(server) == 0);
}

static int integer_option(int fd, int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    CHECK(getsockopt(fd, level, name, &value, &length) == 0);
    CHECK(length == sizeof value);
    return value;
}

static void socket_options(void) {
    int port, server = listener(&port);
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    CHECK(integer_option(fd, SOL_SOCKET, SO_TYPE) == SOCK_STREAM);
    CHECK(integer_option(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET);
    CHECK(integer_option(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP);
    CHECK(integer_option(fd, SOL_SOCKET, SO_ACCEPTCONN) == 0);
    CHECK(integer_option(server, SOL_SOCKET, SO_ACCEPTCONN) == 1);
    CHECK(integer_option(fd, SOL_SOCKET, SO_ERROR) == 0);
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    CHECK(integer_option(fd, IPPROTO_TCP, TCP_NODELAY) == 1);
    int size = 65536;
    CHECK(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0);
    FAILS(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, 1), EINVAL);
    FAILS(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, NULL, sizeof on), EFAULT);
    struct timeval time = {1, 500000}, back;
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) == 0);
    socklen_t length = sizeof back;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &back, &length) == 0);
    CHECK(length == sizeof back && back.tv_sec == 1 && back.tv_usec == 500000);
    char congestion[16] = {0};
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) == 0);
    length = sizeof congestion;
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, &length) == 0);
    CHECK(strcmp(congestion, "reno") == 0);
}

static void names(void) {
    int port, server = listener(&port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in sin;
    socklen_t length = sizeof sin;
    CHECK(getsockname(fd, (struct sockaddr *)&sin, &length) == 0);
    CHECK(length == sizeof sin && sin.sin_family == AF_INET && sin.sin_port == 0 && sin.sin_addr.s_addr == 0);
    FAILS(getpeername(fd, (struct sockaddr *)&sin, &length), ENOTCONN);
    struct sockaddr_in to = at(HERE, port);
    CHECK(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
    CHECK(getpeername(fd, (struct sockaddr *)&sin, &length) == 0);
    CHECK(ntohs(sin.sin_port) == port && sin.sin_addr.s_addr == to.sin_addr.s_addr);
    struct sockaddr_in own, peer;
    length = sizeof own;
    CHECK(getsockname(fd, (struct sockaddr *)&own, &length) == 0);
    length = sizeof peer;
    int other = accept4(server, (struct sockaddr *)&peer, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    CHECK(other >= 0 && length == sizeof peer);
    CHECK(peer.sin_port == own.sin_port && peer.sin_addr.s_addr == own.sin_addr.s_addr);
    CHECK(fcntl(other, F_GETFD) == FD_CLOEXEC && fcntl(other, F_GETFL) & O_NONBLOCK);
    /* A short buffer gets what fits, and the full length. */
    unsigned char little[4] = {0};
    length = sizeof little;
    CHECK(getpeername(fd, (struct sockaddr *)little, &length) == 0);
    CHECK(length == sizeof sin && memcmp(little, &to, 4) == 0);
    struct sockaddr_in again = at("0.0.0.0", port);
    int second = socket(AF_INET, SOCK_STREAM, 0);
    FAILS(bind(second, (struct sockaddr *)&again, sizeof again), EADDRINUSE);
    FAILS(accept(second, NULL, NULL), EINVAL);
    FAILS(accept4(server, NULL, NULL, 12345), EINVAL);
    CHECK(fcntl(server, F_SETFL, O_NONBLOCK) == 0);
    FAILS(accept(server, NULL, NULL), EAGAIN);
}

static void half_close(void) {
    int pair[2];
    join_pair(pair);
    char buffer[16];
    write_all(pair[0], "last", 4);
    CHECK(shutdown(pair[0], SHUT_WR) == 0);
    CHECK(read(pair[1], buffer, 16) == 4);
    CHECK(read(pair[1], buffer, 16) == 0);
    write_all(pair[1], "answer", 6);
    CHECK(read(pair[0], buffer, 16) == 6);
    struct pollfd entry = {pair[1], POLLIN | POLLRDHUP, 0};
    CHECK(poll(&entry, 1, 0) == 1 && entry.revents == (POLLIN | POLLRDHUP));
    CHECK(shutdown(pair[1], SHUT_WR) == 0);
    CHECK(read(pair[0], buffer, 16) == 0);
    int fresh = socket(AF_INET, SOCK_STREAM, 0);
    FAILS(shutdown(fresh, SHUT_WR), ENOTCONN);
    FAILS(shutdown(pair[0], 7), EINVAL);
}

static volatile sig_atomic_t pipes;

static void count_pipe(int signal) {
    (void)signal;
    pipes++;
}

static void broken_pipe(void) {
    int pair[2];
    join_pair(pair);
    struct sigaction action = {.sa_handler = count_pipe};
    CHECK(sigaction(SIGPIPE, &action, NULL) == 0);
    struct sigaction back;
    CHECK(sigaction(SIGPIPE, NULL, &back) == 0 && back.sa_handler == count_pipe);
    CHECK(shutdown(pair[0], SHUT_WR) == 0);
    FAILS(write(pair[0], "x", 1), EPIPE);
    CHECK(pipes == 1);
    FAILS(send(pair[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK(pipes == 1);
    int fresh = socket(AF_INET, SOCK_STREAM, 0);
    FAILS(send(fresh, "x", 1, MSG_NOSIGNAL), EPIPE);
    FAILS(recv(fresh, &(char){0}, 1, 0), ENOTCONN);
    CHECK(signal(SIGPIPE, SIG_IGN) == count_pipe);
    FAILS(write(pair[0], "x", 1), EPIPE);
    CHECK(pipes == 1);
}

static void receive_flags(void) {
    int pair[2];
    join_pair(pair);
    char buffer[16] = {0};
    FAILS(recv(pair[1], buffer, 16, MSG_DONTWAIT), EAGAIN);
    write_all(pair[0], "abcdef", 6);
    CHECK(recv(pair[1], buffer, 3, MSG_PEEK | MSG_WAITALL) == 3 && memcmp(buffer, "abc", 3) == 0);
    CHECK(recv(pair[1], buffer, 16, MSG_PEEK) == 6 && memcmp(buffer, "abcdef", 6) == 0);
    CHECK(recv(pair[1], NULL, 2, MSG_TRUNC) == 2);
    CHECK(recv(pair[1], buffer, 4, MSG_WAITALL) == 4 && memcmp(buffer, "cdef", 4) == 0);
    write_all(pair[0], "xy", 2);
    CHECK(shutdown(pair[0], SHUT_WR) == 0);
    /* WAITALL ends early at the end of the stream. */
    CHECK(recv(pair[1], buffer, 8, MSG_WAITALL) == 2);
    CHECK(recv(pair[1], buffer, 8, 0) == 0);
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    write_all(pair[1], "q", 1);
    CHECK(recvfrom(pair[0], buffer, 8, 0, (struct sockaddr *)&from, &length) == 1 && length == 0);
}

static void vectors(void) {
    int pair[2];
    join_pair(pair);
    char head[3], tail[8];
    struct iovec out[] = {{"ab", 2}, {NULL, 0}, {"cdefg", 5}};
    struct iovec in[] = {{head, 3}, {tail, 8}};
    CHECK(writev(pair[0], out, 3) == 7);
    CHECK(readv(pair[1], in, 2) == 7);
    CHECK(memcmp(head, "abc", 3) == 0 && memcmp(tail, "defg", 4) == 0);
    /* Counts that are wrong on purpose, hidden from the compiler. */
    volatile int negative = -1, too_many = 2000;
    FAILS(writev(pair[0], out, negative), EINVAL);
    FAILS(readv(pair[1], in, too_many), EINVAL);
}

static void messages(void) {
    int pair[2];
    join_pair(pair);
    char first[4], second[4], control[64];
    struct iovec out = {"12345678", 8}, in[] = {{first, 4}, {second, 4}};
    struct msghdr message = {.msg_iov = &out, .msg_iovlen = 1};
    CHECK(sendmsg(pair[0], &message, 0) == 8);
    struct sockaddr_in name;
    struct msghdr answer = {.msg_iov = in, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof control,
                            .msg_name = &name, .msg_namelen = sizeof name, .msg_flags = -1};
    CHECK(recvmsg(pair[1], &answer, 0) == 8);
    CHECK(answer.msg_controllen == 0 && answer.msg_namelen == 0 && answer.msg_flags == 0);
    CHECK(memcmp(first, "1234", 4) == 0 && memcmp(second, "5678", 4) == 0);
    struct mmsghdr many[2] = {{.msg_hdr = message}, {.msg_hdr = message}};
    CHECK(sendmmsg(pair[0], many, 2, 0) == 2 && many[1].msg_len == 8);
    struct mmsghdr got[3];
    memset(got, 0, sizeof got);
    for (int i = 0; i < 3; i++) {
        got[i].msg_hdr.msg_iov = in;
        got[i].msg_hdr.msg_iovlen = 2;
    }
    nap(50);
    CHECK(recvmmsg(pair[1], got, 3, MSG_WAITFORONE, NULL) == 2 && got[1].msg_len == 8);
}

static void file_flags(void) {
    int pair[2];
    join_pair(pair);
    int copy = dup(pair[0]);
    CHECK(fcntl(pair[0], F_SETFL, fcntl(pair[0], F_GETFL) | O_NONBLOCK) == 0);
    /* Flags belong to the open file description. */
    CHECK(fcntl(copy, F_GETFL) == (O_RDWR | O_NONBLOCK));
    FAILS(read(copy, &(char){0}, 1), EAGAIN);
    int off = 0, on = 1;
    CHECK(ioctl(copy, FIONBIO, &off) == 0);
    CHECK(fcntl(pair[0], F_GETFL) == O_RDWR);
    CHECK(ioctl(copy, FIONBIO, &on) == 0);
    CHECK(fcntl(pair[0], F_GETFL) == (O_RDWR | O_NONBLOCK));
    CHECK(ioctl(copy, FIOCLEX) == 0 && fcntl(copy, F_GETFD) == FD_CLOEXEC);
}

static void duplicates(void) {
    int pair[2];
    join_pair(pair);
    char buffer[8];
    int copy = dup(pair[0]);
    CHECK(copy >= 0);
    CHECK(close(pair[0]) == 0);
    write_all(copy, "one", 3);
    CHECK(read(pair[1], buffer, 8) == 3);
    CHECK(dup2(copy, 200) == 200);
    CHECK(close(copy) == 0);
    write_all(200, "two", 3);
    CHECK(read(pair[1], buffer, 8) == 3);
    int third = fcntl(200, F_DUPFD_CLOEXEC, 300);
    CHECK(third >= 300);
    /* A socket that is overwritten is closed. */
    int null = open("/dev/null", O_RDWR);
    CHECK(dup3(null, 200, O_CLOEXEC) == 200);
    CHECK(write(200, "nothing", 7) == 7);
    write_all(third, "three", 5);
    CHECK(read(pair[1], buffer, 8) == 5);
    CHECK(dup2(null, third) == third);
    CHECK(read(pair[1], buffer, 8) == 0);
    CHECK(dup2(pair[1], pair[1]) == pair[1]);
    FAILS(dup3(pair[1], pair[1], 0), EINVAL);
    FAILS(dup(12345), EBADF);
}

enum way { CLOSE, DUP2, DUP3, CLOSE_RANGE, CLOSEFROM, WAYS };

static void an_address_is_free_once_its_listener_is_gone(void) {
    int null = open("/dev/null", O_RDWR);
    for (int i = 0; i < 200; i++) {
        int port, first = listener(&port), server = dup2(first, 600);
        CHECK(server == 600);
        /* The other copy goes first or last by turns. */
        if (i % 2)
            CHECK(close(first) == 0);
        switch ((enum way)(i % WAYS)) {
        case CLOSE: CHECK(close(server) == 0); break;
        case DUP2: CHECK(dup2(null, server) == server); break;
        case DUP3: CHECK(dup3(null, server, O_CLOEXEC) == server); break;
        case CLOSE_RANGE: CHECK(close_range(server - 1, server + 1, 0) == 0); break;
        case CLOSEFROM: closefrom(server); break;
        case WAYS: break;
        }
        struct sockaddr_in sin = at("0.0.0.0", port);
        int again = socket(AF_INET, SOCK_STREAM, 0);
        if (i % 2 == 0) {
            FAILS(bind(again, (struct sockaddr *)&sin, sizeof sin), EADDRINUSE);
            CHECK(close(first) == 0);
        }
        CHECK(bind(again, (struct sockaddr *)&sin, sizeof sin) == 0);
        CHECK(close(again) == 0);
    }
}

static void bytes_in_flight(void) {
    int pair[2], count = -1;
    join_pair(pair);
    CHECK(ioctl(pair[1], FIONREAD, &count) == 0 && count == 0);
    write_all(pair[0], "12345", 5);
    struct pollfd entry = {pair[1], POLLIN, 0};
    CHECK(poll(&entry, 1, 5000) == 1);
    CHECK(ioctl(pair[1], FIONREAD, &count) == 0 && count == 5);
    for (int tries = 0; tries < 500 && count != 0; tries++) {
        CHECK(ioctl(pair[0], TIOCOUTQ, &count) == 0);
        nap(10);
    }
    CHECK(count == 0);
}

static void timeouts(void) {
    int pair[2];
    join_pair(pair);
    struct timeval time = {0, 30000};
    CHECK(setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) == 0);
    FAILS(read(pair[1], &(char){0}, 1), EAGAIN);
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time) == 0);
    static char block[1 << 20];
    ssize_t sent, total = 0;
    while ((sent = send(pair[0], block, sizeof block, MSG_NOSIGNAL)) > 0) {
        total += sent;
        CHECK(total < 64 << 20);
    }
    CHECK(sent == -1 && errno == EAGAIN && total > 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time) == 0);
    struct sockaddr_in sin = at(HERE, 9);
    FAILS(connect(fd, (struct sockaddr *)&sin, sizeof sin), EINPROGRESS);
}

static void bad_arguments(void) {
    int pair[2];
    join_pair(pair);
    struct sockaddr_in sin = at(HERE, 80);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    /* Addresses that are wrong on purpose, hidden from the compiler. */
    struct sockaddr *volatile nowhere = NULL;
    void *volatile no_buffer = NULL;
    FAILS(connect(fd, nowhere, sizeof sin), EFAULT);
    FAILS(connect(fd, (struct sockaddr *)&sin, 3), EINVAL);
    sin.sin_family = AF_INET6;
    FAILS(connect(fd, (struct sockaddr *)&sin, sizeof sin), EAFNOSUPPORT);
    FAILS(write(pair[0], no_buffer, 5), EFAULT);
    FAILS(read(pair[0], no_buffer, 5), EFAULT);
    CHECK(write(pair[0], "", 0) == 0);
    CHECK(read(pair[0], &(char){0}, 0) == 0);
    FAILS(socket(AF_INET, SOCK_STREAM | 0x100000, 0), EINVAL);
    FAILS(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT);
}

static void sendfile_moves_a_file(void) {
    int pair[2];
    join_pair(pair);
    FILE *file = tmpfile();
    CHECK(file);
    static char bytes[100000], back[100000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = i * 31 + i / 251;
    CHECK(fwrite(bytes, 1, sizeof bytes, file) == sizeof bytes && fflush(file) == 0);
    int fd = fileno(file);
    off_t offset = 1000;
    CHECK(sendfile(pair[0], fd, &offset, 50000) == 50000 && offset == 51000);
    read_all(pair[1], back, 50000);
    CHECK(memcmp(back, bytes + 1000, 50000) == 0);
    CHECK(lseek(fd, 99990, SEEK_SET) == 99990);
    CHECK(sendfile(pair[0], fd, NULL, 50000) == 10);
    CHECK(lseek(fd, 0, SEEK_CUR) == 100000);
    CHECK(sendfile(pair[0], fd, NULL, 50000) == 0);
    read_all(pair[1], back, 10);
    CHECK(memcmp(back, bytes + 99990, 10) == 0);
    FAILS(sendfile(pair[0], pair[1], NULL, 10), EINVAL);
    /* What a full non-blocking socket does not take stays in the file. */
    CHECK(fcntl(pair[0], F_SETFL, O_NONBLOCK) == 0);
    off_t total = 0;
    for (int i = 0; i < 1000; i++) {
        off_t start = 0;
        ssize_t sent = sendfile(pair[0], fd, &start, 100000);
        if (sent == -1) {
            CHECK(errno == EAGAIN && start == 0);
            break;
        }
        CHECK(start == sent);
        total += sent;
    }
    CHECK(total > 0 && total < 100000000);
}

static void splice_to_and_from_pipes(void) {
    int pair[2], pipes[2];
    join_pair(pair);
    CHECK(pipe(pipes) == 0);
    char buffer[16];
    write_all(pipes[1], "through", 7);
    CHECK(splice(pipes[0], NULL, pair[0], NULL, 100, 0) == 7);
    CHECK(splice(pair[1], NULL, pipes[1], NULL, 4, 0) == 4);
    CHECK(read(pipes[0], buffer, 16) == 4 && memcmp(buffer, "thro", 4) == 0);
    CHECK(read(pair[1], buffer, 16) == 3 && memcmp(buffer, "ugh", 3) == 0);
    FAILS(splice(pair[1], NULL, pipes[1], NULL, 4, SPLICE_F_NONBLOCK), EAGAIN);
}

struct stream {
    int fd;
    size_t length;
};

static unsigned char byte_at(size_t offset) {
    return offset * 167 + (offset >> 8) * 13 + (offset >> 16) * 7;
}

static void *send_stream(void *argument) {
    struct stream *stream = argument;
    static unsigned char block[70001];
    for (size_t done = 0; done < stream->length;) {
        size_t length = 1 + done * 7919 % sizeof block;
        if (length > stream->length - done)
            length = stream->length - done;
        for (size_t i = 0; i < length; i++)
            block[i] = byte_at(done + i);
        write_all(stream->fd, block, length);
        done += length;
    }
    CHECK(shutdown(stream->fd, SHUT_WR) == 0);
    return NULL;
}

static int transfer(size_t length) {
    int pair[2];
    join_pair(pair);
    struct stream stream = {pair[0], length};
    pthread_t sender;
    CHECK(pthread_create(&sender, NULL, send_stream, &stream) == 0);
    static unsigned char block[90001];
    size_t done = 0;
    ssize_t got;
    while ((got = read(pair[1], block, 1 + done * 104729 % sizeof block)) > 0) {
        for (ssize_t i = 0; i < got; i++)
            CHECK(block[i] == byte_at(done + i));
        done += got;
    }
    CHECK(got == 0 && done == length);
    CHECK(pthread_join(sender, NULL) == 0);
    return 0;
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        CASE(socket_takes_the_lowest_number), CASE(connect_and_transfer), CASE(connect_refused),
        CASE(nonblocking_connect), CASE(socket_options), CASE(names), CASE(half_close), CASE(broken_pipe),
        CASE(receive_flags), CASE(vectors), CASE(messages), CASE(file_flags), CASE(duplicates),
        CASE(an_address_is_free_once_its_listener_is_gone),
        CASE(bytes_in_flight), CASE(timeouts), CASE(bad_arguments), CASE(sendfile_moves_a_file),
        CASE(splice_to_and_from_pipes), {0}};
    if (argc == 3 && strcmp(argv[1], "transfer") == 0)
        return transfer(strtoul(argv[2], NULL, 10));
    return run_case(tests, argc, argv);
}
