#pragma once

#include "ps/server/checkpoint_jobs.h"
#include "ps/server/definer.h"
#include "ps/server/request.h"
#include "ps/server/sweeps.h"

namespace ps::server {

// Serves the control requests that server.h lists. A request of a stream takes effect once per
// (stream, sequence); a duplicate gets the first one's answer.
class Control {
 public:
  Control(Core* core, Definer* definer, Sweeps* sweeps, CheckpointJobs* jobs)
      : core_(core), definer_(definer), sweeps_(sweeps), jobs_(jobs) {}

  // On the connection's thread; answers now or later, from any thread.
  void Serve(const RequestPtr& request);

 private:
  using Reply = std::function<void(const Status& status, const std::string& answer)>;

  void Run(const std::string& text, const Reply& reply);
  void Describe(const Reply& reply);
  Status StartDefine(const std::string& text, Reply reply);
  Status StartInitTensors(const std::string& text, Reply reply);
  Status StartSweep(const std::string& text, Reply reply);
  Status EndStreams(const std::string& text, const Reply& reply);
  Status Stop(const std::string& text, const Reply& reply);

  Core* const core_;
  Definer* const definer_;
  Sweeps* const sweeps_;
  CheckpointJobs* const jobs_;
};

}  // namespace ps::server
