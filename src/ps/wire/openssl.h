#pragma once

namespace ps::wire {

// Before the first call of OpenSSL in this process; costs nothing from the second time on.
// OpenSSL then reads no configuration file of the host, and leaves its tables alone when the
// process ends: threads may be amid a call at that moment. Thread-safe.
void StartOpenSsl();

}  // namespace ps::wire
