#pragma once

#include <memory>
#include <string>

#include "ps/net/certificate.h"
#include "ps/net/stream.h"

namespace ps::net {

// A stream by TLS 1.3. Its state machine (OpenSSL's, fed from memory) knows no reactor: the
// client's threads wait in poll(2), and replies of a server leave from the thread that completes
// them, so both need reads and writes that return at once. A lock lets them meet.

// The accepting side.
Result<std::unique_ptr<Stream>> MakeTlsServerStream(int fd, const TlsIdentity& identity);

// The connecting side: the peer must hold the key of the certificate with this fingerprint.
Result<std::unique_ptr<Stream>> MakeTlsClientStream(int fd, std::string fingerprint);

}  // namespace ps::net
