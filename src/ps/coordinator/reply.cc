#include "ps/coordinator/reply.h"

#include <cstring>
#include <utility>

namespace ps::coordinator {

void SendReply(const net::ConnectionPtr& connection, std::uint64_t request_id,
               const Result<std::string>& answer) {
  if (!answer.ok()) {
    connection->SendError(request_id, answer.status());
    return;
  }
  net::Buffer payload(answer->size());
  std::memcpy(payload.data(), answer->data(), answer->size());
  wire::FrameHeader header;
  header.type = wire::MessageType::kControlReply;
  header.request_id = request_id;
  connection->Send(header, std::move(payload));
}

}  // namespace ps::coordinator
