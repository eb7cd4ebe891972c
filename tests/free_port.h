// A port of this machine that nobody listens on.
#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

namespace fathom::test {

/// Another one at each call, and none of those that the system gives to connections (from 32768 on): such a
/// one may be taken again before it is listened on.
inline int free_port() {
  constexpr int first = 20'000, count = 12'000;
  static int next = ::getpid() * 61 % count;
  for (int tries = 0; tries < count; ++tries) {
    const int port = first + next++ % count;
    const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = ::htons(static_cast<in_port_t>(port));
    address.sin_addr.s_addr = ::htonl(INADDR_ANY);
    const bool bound = ::bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    ::close(socket);
    if (bound) return port;
  }
  return 0;
}

}  // namespace fathom::test
