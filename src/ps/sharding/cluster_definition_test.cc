#include "ps/sharding/cluster_definition.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "ps/base/limits.h"
#include "ps/sharding/json_fields.h"

namespace ps::sharding {
namespace {

using ::testing::HasSubstr;

ClusterDefinition Example() {
  ClusterDefinition definition;
  definition.version = 7;
  definition.seed = std::numeric_limits<std::uint64_t>::max();
  definition.weight_optimizer = {"adam", {{"learning_rate", 0.001}, {"beta1", 0.9}}};
  definition.map = {3, 2, 2, {0, 1, 1, 0}};
  definition.weight_copies = {2, 2, {1}};
  definition.tables.push_back(
      {0, "default", 64, {"adagrad", {{"epsilon", 1e-10}}}, "normal", 0.01});
  definition.tables.push_back({1, "käufer \"x\"", 8, {"sgd", {}}, "zeros", 0.0});
  definition.tensors.push_back({0, "0/kernel", {512, 1024}});
  definition.tensors.push_back({1, "1/bias", {}});
  return definition;
}

// `json` with the value at `pointer` replaced.
std::string With(const std::string& pointer, const Json& value) {
  Json json = Json::parse(Example().ToJson());
  json[Json::json_pointer(pointer)] = value;
  return json.dump();
}

TEST(ClusterDefinition, JsonKeepsEveryField) {
  ClusterDefinition before = Example();
  Result<ClusterDefinition> after = ClusterDefinition::FromJson(before.ToJson());
  ASSERT_TRUE(after.ok()) << after.status().ToString();
  EXPECT_EQ(after->version, before.version);
  EXPECT_EQ(after->seed, before.seed);
  EXPECT_EQ(after->weight_optimizer, before.weight_optimizer);
  EXPECT_EQ(after->map, before.map);
  EXPECT_EQ(after->weight_copies, before.weight_copies);
  ASSERT_EQ(after->tables.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(after->tables[i].SameAs(before.tables[i]));
    EXPECT_EQ(after->tables[i].id, i);
    EXPECT_EQ(after->tensors[i].name, before.tensors[i].name);
    EXPECT_EQ(after->tensors[i].shape, before.tensors[i].shape);
  }
  EXPECT_EQ(after->ToJson(), before.ToJson());
}

TEST(ClusterDefinition, FindsByName) {
  ClusterDefinition definition = Example();
  EXPECT_EQ(definition.FindTable("default")->dim, 64u);
  EXPECT_EQ(definition.FindTable("Default"), nullptr);
  EXPECT_EQ(definition.FindTensor("1/bias")->id, 1u);
  EXPECT_EQ(definition.FindTensor(""), nullptr);
}

TEST(ClusterDefinition, TablesDifferByEachField) {
  TableDefinition table = Example().tables[0];
  auto differs = [&](auto change) {
    TableDefinition other = table;
    change(other);
    return !table.SameAs(other);
  };
  EXPECT_TRUE(differs([](TableDefinition& t) { t.dim = 65; }));
  EXPECT_TRUE(differs([](TableDefinition& t) { t.init_scale = 0.02; }));
  EXPECT_TRUE(differs([](TableDefinition& t) { t.init = "zeros"; }));
  EXPECT_TRUE(differs([](TableDefinition& t) { t.optimizer.params["epsilon"] = 1e-8; }));
  EXPECT_FALSE(differs([](TableDefinition& t) { t.id = 9; }));
}

TEST(TensorDefinition, ChunksCoverTheTensorOnce) {
  constexpr std::uint64_t kChunk = limits::kTensorChunkFloats;
  for (std::uint64_t floats : {std::uint64_t{1}, kChunk - 1, kChunk, kChunk + 1, 3 * kChunk}) {
    TensorDefinition tensor{0, "t", {floats}};
    std::uint64_t sum = 0;
    for (std::uint32_t c = 0; c < tensor.chunks(); ++c) {
      EXPECT_GT(tensor.chunk_floats(c), 0u);
      EXPECT_LE(tensor.chunk_floats(c), kChunk);
      sum += tensor.chunk_floats(c);
    }
    EXPECT_EQ(sum, floats);
    EXPECT_EQ(tensor.chunk_floats(tensor.chunks()), 0u);
  }
  EXPECT_EQ((TensorDefinition{0, "scalar", {}}).floats(), 1u);
  TensorDefinition empty{0, "empty", {5, 0}};
  EXPECT_EQ(empty.chunks(), 1u);
  EXPECT_EQ(empty.chunk_floats(0), 0u);
}

TEST(ClusterDefinition, RefusesWhatCannotBe) {
  struct Case {
    std::string json;
    const char* names;
  };
  for (const Case& c : std::vector<Case>{
           {"{", "JSON"},
           {"[1]", "object"},
           {"{}", "version"},
           {With("/seed", -1), "seed"},
           {With("/map/owner/2", 2), "owner 2 of partition 2"},
           {With("/weight_replicas", 0), "weight_replicas"},
           {With("/weight_replicas", 3), "weight_replicas"},
           {With("/lost", Json::array({2})), "lost"},
           {With("/lost", Json::array({1, 0})), "ascending"},
           {With("/map/partition_bits", 3), "partition_bits"},
           {With("/map/partition_bits", 17), "partition_bits"},
           {With("/tables/0/dim", 0), "dim"},
           {With("/tables/0/dim", limits::kEmbeddingDimMax + 1), "dim"},
           {With("/tables/0/name", ""), "1 to 128"},
           {With("/tables/0/name", "a\nb"), "1 to 128"},
           {With("/tables/0/name", std::string(129, 'x')), "1 to 128"},
           {With("/tables/0/name", "käufer \"x\""), "twice"},
           {With("/tables/0/id", 1), "number 0"},
           {With("/tables/0/init", "unknown"), "unknown"},
           {With("/tables/0/init_scale", -0.5), "init_scale"},
           {With("/tables/0/optimizer/params/epsilon", "x"), "epsilon"},
           {With("/tensors/0/shape/0", -3), "extent"},
           {With("/tensors/0/shape", Json::array({1 << 30, 1 << 30})), "2^40"},
           {With("/tensors/1/name", "0/kernel"), "twice"},
       }) {
    Result<ClusterDefinition> result = ClusterDefinition::FromJson(c.json);
    ASSERT_FALSE(result.ok()) << c.json;
    EXPECT_THAT(result.status().message(), HasSubstr(c.names)) << c.json;
  }
}

TEST(TableDefinition, NameLengthIsCountedInCharactersUpTo128) {
  TableDefinition table = Example().tables[0];
  table.name.clear();
  for (int i = 0; i < 128; ++i) table.name += "ü";
  EXPECT_TRUE(TableFromJson(TableToJson(table)).ok());
  table.name += "x";
  EXPECT_FALSE(TableFromJson(TableToJson(table)).ok());
}

}  // namespace
}  // namespace ps::sharding
