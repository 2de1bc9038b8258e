#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <thread>

#include "ps/arrow/rows.h"
#include "ps/base/limits.h"
#include "ps/server/checkpoint_jobs.h"
#include "ps/server/checkpoint_loader.h"
#include "ps/server/checkpoint_snapshot.h"
#include "ps/server/push_ledger.h"
#include "ps/sharding/json_fields.h"
#include "ps/testing/cluster.h"

namespace ps::server {
namespace {

using sharding::Json;
using ::testing::HasSubstr;

Json Request(const std::string& job) { return {{"job", job}, {"task", {{"kind", "save"}}}}; }

std::string StateOf(CheckpointJobs& jobs, const std::string& name) {
  auto status = jobs.Serve("checkpoint_status", {{"job", name}});
  EXPECT_TRUE(status.ok());
  return Json::parse(*status)["state"];
}

TEST(CheckpointJobsTest, AJobIsTakenOnceHoweverOftenItIsStarted) {
  CheckpointJobs jobs;
  ASSERT_TRUE(jobs.Serve("checkpoint_start", Request("a")).ok());
  ASSERT_TRUE(jobs.Serve("checkpoint_start", Request("a")).ok());
  auto job = jobs.Take(Duration::zero());
  ASSERT_TRUE(job.has_value());
  EXPECT_EQ(job->name, "a");
  EXPECT_EQ(Json::parse(job->task)["kind"], "save");
  EXPECT_FALSE(jobs.Take(Duration::zero()).has_value());
  EXPECT_TRUE(jobs.Report("a", R"({"rows":7})"));
  auto status = Json::parse(*jobs.Serve("checkpoint_status", {{"job", "a"}}));
  EXPECT_EQ(status["state"], "running");
  EXPECT_EQ(status["progress"]["rows"], 7);
  jobs.Finish("a", R"({"files":[]})");
  status = Json::parse(*jobs.Serve("checkpoint_status", {{"job", "a"}}));
  EXPECT_EQ(status["state"], "done");
  EXPECT_TRUE(status["result"]["files"].empty());
}

TEST(CheckpointJobsTest, ACancelledJobIsNotTakenAndARunningOneHearsOfIt) {
  CheckpointJobs jobs;
  ASSERT_TRUE(jobs.Serve("checkpoint_start", Request("runs")).ok());
  ASSERT_TRUE(jobs.Take(Duration::zero()).has_value());
  ASSERT_TRUE(jobs.Serve("checkpoint_start", Request("waits")).ok());
  for (const char* name : {"runs", "waits"}) {
    ASSERT_TRUE(jobs.Serve("checkpoint_cancel", {{"job", name}}).ok());
  }
  EXPECT_FALSE(jobs.Take(Duration::zero()).has_value());
  EXPECT_EQ(StateOf(jobs, "waits"), "cancelled");
  EXPECT_FALSE(jobs.Report("runs", "{}"));
  jobs.Fail("runs", "ClosedError", "cancelled");
  EXPECT_EQ(StateOf(jobs, "runs"), "failed");
}

TEST(CheckpointJobsTest, WaitingAndEndedJobsAreBounded) {
  CheckpointJobs jobs;
  for (std::size_t i = 0; i < CheckpointJobs::kWaitingMax; ++i) {
    ASSERT_TRUE(jobs.Serve("checkpoint_start", Request("w" + std::to_string(i))).ok());
  }
  auto refused = jobs.Serve("checkpoint_start", Request("one more"));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
  while (auto job = jobs.Take(Duration::zero())) jobs.Finish(job->name, "{}");
  for (std::size_t i = 0; i <= CheckpointJobs::kEndedKeptMax; ++i) {
    ASSERT_TRUE(jobs.Serve("checkpoint_start", Request("e" + std::to_string(i))).ok());
    jobs.Finish(jobs.Take(Duration::zero())->name, "{}");
  }
  EXPECT_FALSE(jobs.Serve("checkpoint_status", {{"job", "w0"}}).ok());
  EXPECT_FALSE(jobs.Serve("checkpoint_status", {{"job", ""}}).ok());
}

TEST(CheckpointJobsTest, AServerThatEndsLetsTheHostGo) {
  CheckpointJobs jobs;
  std::thread closer([&] { jobs.Close(); });
  EXPECT_FALSE(jobs.Take(std::chrono::minutes(1)).has_value());
  closer.join();
}

class LedgerInCheckpointsTest : public ::testing::Test {
 protected:
  static PushLedger::Decision Try(PushLedger& ledger, std::uint64_t stream, std::uint64_t number) {
    auto outcome = ledger.Begin(stream, number, [](const Status&, const std::string&) {});
    EXPECT_TRUE(outcome.ok()) << outcome.status().ToString();
    return outcome->decision;
  }
  static void Do(PushLedger& ledger, std::uint64_t stream, std::uint64_t number) {
    EXPECT_EQ(Try(ledger, stream, number), PushLedger::Decision::kRun);
    ledger.Commit(stream, number);
  }
};

TEST_F(LedgerInCheckpointsTest, WhatWasDoneOrInProgressAnywhereIsDoneAndNothingElse) {
  ManualClock clock;
  PushLedger one(&clock);
  PushLedger two(&clock);
  Do(one, 5, 10);
  EXPECT_EQ(Try(one, 5, 12), PushLedger::Decision::kRun);  // in progress
  Do(two, 5, 11);
  Do(two, 5, 10 + limits::kLedgerWindow);
  std::vector<PushLedger::Record> records = one.Export();
  for (auto& record : two.Export()) records.push_back(std::move(record));

  PushLedger loaded(&clock);
  Do(loaded, 9, 1);
  ASSERT_TRUE(loaded.Replace(records).ok());
  for (std::uint64_t number : {10, 11, 12}) {
    EXPECT_EQ(Try(loaded, 5, number), PushLedger::Decision::kDone) << number;
  }
  EXPECT_EQ(Try(loaded, 5, 10 + limits::kLedgerWindow), PushLedger::Decision::kDone);
  EXPECT_EQ(Try(loaded, 5, 13), PushLedger::Decision::kRun);
  EXPECT_EQ(Try(loaded, 9, 1), PushLedger::Decision::kRun);  // undone by the load
}

TEST_F(LedgerInCheckpointsTest, WhatIsInProgressDuringALoadEndsAsUsual) {
  ManualClock clock;
  PushLedger ledger(&clock);
  EXPECT_EQ(Try(ledger, 5, 1), PushLedger::Decision::kRun);
  ASSERT_TRUE(ledger.Replace({}).ok());
  EXPECT_EQ(Try(ledger, 5, 1), PushLedger::Decision::kWait);
  ledger.Commit(5, 1);
  EXPECT_EQ(Try(ledger, 5, 1), PushLedger::Decision::kDone);
}

TEST_F(LedgerInCheckpointsTest, EndedStreamsStayEndedAndDamageIsRefused) {
  ManualClock clock;
  PushLedger ledger(&clock);
  const std::uint64_t stream = 5;
  ledger.End(std::span(&stream, 1));
  PushLedger loaded(&clock);
  ASSERT_TRUE(loaded.Replace(ledger.Export()).ok());
  EXPECT_FALSE(loaded.Begin(5, 1, nullptr).ok());
  const PushLedger::Record damaged{7, 1, false, std::vector<bool>(8)};
  EXPECT_EQ(loaded.Replace(std::span(&damaged, 1)).code(), StatusCode::kDataCorruption);
  EXPECT_FALSE(loaded.Begin(5, 1, nullptr).ok());  // as it was
}

// Streams go from a snapshot to a loader through the C interface, as they do by way of Python.
class SnapshotAndLoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ps::testing::ClusterOptions options;
    options.shard_threads = 2;
    options.tables = {ps::testing::Table("default", 2), ps::testing::Table("ftrl", 2)};
    options.tables[1].optimizer = {"ftrl", {{"alpha", 0.5}}};
    auto started = ps::testing::Cluster::Start(options);
    ASSERT_TRUE(started.ok()) << started.status().ToString();
    cluster_ = std::move(started).value();
    client_ = cluster_->Connect();
    for (Key key = 0; key < 500; ++key) keys_.push_back(key * 7);
    grads_.assign(keys_.size() * 2, 0.25f);
  }

  Server& server() { return cluster_->server(0); }

  std::vector<float> Pull(TableId table) {
    auto values = client_->PullRows(table, 2, keys_, /*create=*/false);
    EXPECT_TRUE(values.ok()) << values.status().ToString();
    return *values;
  }
  void Push(std::uint64_t number) {
    ps::testing::Sections sections;
    sections.PushRows(0, 2, keys_, grads_).PushRows(1, 2, keys_, grads_);
    ASSERT_TRUE(client_->Push(1, number, {sections}).ok());
  }
  std::shared_ptr<CheckpointLoader> StartLoad(bool states) {
    Json definition = Json::parse(*server().DefinitionJson());
    Json plan{{"states", states},         {"rows", true},
              {"weights", false},         {"tables", definition["tables"]},
              {"tensors", Json::array()}, {"weight_optimizer", definition["weight_optimizer"]}};
    auto loader = server().StartLoad(plan.dump());
    EXPECT_TRUE(loader.ok()) << loader.status().ToString();
    return *loader;
  }
  std::uint64_t AddAll(CheckpointLoader& loader, const std::string& table, bool states) {
    auto source = server().snapshots().Rows(table, 0, 64, states);
    EXPECT_TRUE(source.ok()) << source.status().ToString();
    ArrowArrayStream stream;
    arrow::ExportStream(std::move(source).value(), &stream);
    auto rows = loader.AddRows(table, &stream);
    EXPECT_TRUE(rows.ok()) << rows.status().ToString();
    return rows.ok() ? *rows : 0;
  }

  std::unique_ptr<ps::testing::Cluster> cluster_;
  std::unique_ptr<ps::testing::RawClient> client_;
  std::vector<Key> keys_;
  std::vector<float> grads_;
};

TEST_F(SnapshotAndLoadTest, WhatIsTakenComesBackWithItsStates) {
  Push(1);
  const auto before = Pull(1);
  auto loader = StartLoad(true);
  EXPECT_EQ(AddAll(*loader, "default", true), keys_.size());
  EXPECT_EQ(AddAll(*loader, "ftrl", true), keys_.size());
  Push(2);
  const auto after = Pull(1);
  EXPECT_NE(after, before);
  ASSERT_TRUE(loader->CheckComplete().ok());
  ASSERT_TRUE(loader->Commit().ok());
  EXPECT_EQ(Pull(1), before);
  Push(3);  // the same step again, from the same states
  EXPECT_EQ(Pull(1), after);
}

TEST_F(SnapshotAndLoadTest, WithoutStatesFtrlStartsFromItsValues) {
  Push(1);
  const auto before = Pull(1);
  auto loader = StartLoad(false);
  AddAll(*loader, "ftrl", false);
  ASSERT_TRUE(loader->Commit().ok());
  EXPECT_EQ(Pull(1), before);
  EXPECT_THAT(Pull(0), ::testing::Each(0.0f));  // its rows were not loaded: they are gone
  grads_.assign(grads_.size(), 1e-6f);
  Push(2);
  const auto after = Pull(1);
  for (std::size_t i = 0; i < after.size(); ++i) EXPECT_NEAR(after[i], before[i], 1e-3f);
}

TEST_F(SnapshotAndLoadTest, AKeyThatComesTwiceIsDamageAndNothingChanges) {
  Push(1);
  const auto before = Pull(0);
  auto loader = StartLoad(true);
  AddAll(*loader, "default", true);
  auto source = server().snapshots().Rows("default", 0, 64, true);
  ArrowArrayStream stream;
  arrow::ExportStream(std::move(source).value(), &stream);
  auto again = loader->AddRows("default", &stream);
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.status().code(), StatusCode::kDataCorruption);
  EXPECT_THAT(again.status().message(), HasSubstr("come twice"));
  loader.reset();
  EXPECT_EQ(Pull(0), before);
}

TEST_F(SnapshotAndLoadTest, AStreamEndsWhenItsServerDoes) {
  Push(1);
  auto source = server().snapshots().Rows("default", 0, 64, true);
  ASSERT_TRUE(source.ok());
  server().Stop(Duration::zero());
  auto batch = (*source)->Next();
  ASSERT_FALSE(batch.ok());
  EXPECT_EQ(batch.status().code(), StatusCode::kClosed);
}

}  // namespace
}  // namespace ps::server
