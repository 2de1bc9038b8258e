#include "ps/wire/openssl.h"

#include <openssl/crypto.h>

namespace ps::wire {

void StartOpenSsl() {
  (void)OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT | OPENSSL_INIT_NO_LOAD_CONFIG, nullptr);
}

}  // namespace ps::wire
