// `fathom train`, as a user runs it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include "base/file.h"
#include "base/file_lock.h"
#include "base/json.h"
#include "model/checkpoint.h"
#include "training.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using test::Folder;
using test::interrupted_code;
using test::json_of;
using test::model;
using test::run_program;
using test::train_arguments;
using testing::HasSubstr;

TEST(TrainVerb, WritesAModelAndItsMetrics) {
  const Folder folder;
  const Json json = json_of(run_program(train_arguments(folder, "out", 6) + " --json -"));
  EXPECT_EQ(json["steps"], 6);
  EXPECT_EQ(json["tokens"], 384);
  EXPECT_EQ(run_program("generate " + (folder / "out").string() + " --prompt a --max-tokens 2").code, 0);
  const std::string metrics = read_file(folder / "out.run" / "metrics.jsonl");
  EXPECT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), 6);
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt", "out", "out.run"));
  const test::Run again = run_program(train_arguments(folder, "out", 6));
  EXPECT_EQ(again.code, 1);
  EXPECT_THAT(again.err, HasSubstr((folder / "out").string()));
}

TEST(TrainVerb, ASlashAtTheEndOfOutChangesNothing) {
  const Folder folder;
  EXPECT_EQ(run_program(train_arguments(folder, "out/", 2)).code, 0);
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt", "out", "out.run"));
}

TEST(TrainVerb, GoesOnAfterAnInterruptAsIfThereHadBeenNone) {
  const Folder folder;
  const auto metrics = folder / "stopped.run" / "metrics.jsonl";
  const auto lines = [&](const fs::path& path) {
    std::vector<std::string> losses;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      const Json json = Json::parse(line, nullptr, false);
      if (!json.is_discarded()) losses.push_back(json["loss"].dump());
    }
    return losses;
  };
  constexpr int steps = 120;  // a second or more
  const std::string arguments = train_arguments(folder, "stopped", steps);
  EXPECT_EQ(interrupted_code(arguments, [&] { return lines(metrics).size() >= 3; }), 130);
  const std::size_t done = lines(metrics).size();
  ASSERT_LT(done, static_cast<std::size_t>(steps)) << "the interrupt came too late to show anything";
  EXPECT_FALSE(fs::exists(folder / "stopped"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder / "stopped.run" / "checkpoints"), {}), 1);
  const test::Run anew = run_program(arguments);
  EXPECT_EQ(anew.code, 1);
  EXPECT_THAT(anew.err, HasSubstr("--resume"));

  ASSERT_EQ(run_program("train --resume " + (folder / "stopped.run").string()).code, 0);
  ASSERT_EQ(run_program(train_arguments(folder, "whole", steps)).code, 0);
  EXPECT_EQ(lines(metrics), lines(folder / "whole.run" / "metrics.jsonl"));
  EXPECT_EQ(read_file(folder / "stopped" / "model.safetensors"),
            read_file(folder / "whole" / "model.safetensors"));
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt", "stopped", "stopped.run", "whole", "whole.run"));
}

/// Kills the program with no warning each time that `due` says so, and resumes, until it ends by itself.
void kill_and_resume(const std::string& arguments, const fs::path& run,
                     const std::vector<std::size_t>& steps) {
  std::string next = arguments;
  const auto done = [&] {
    const auto metrics = run / "metrics.jsonl";
    const std::string lines = fs::exists(metrics) ? read_file(metrics) : "";
    return static_cast<std::size_t>(std::ranges::count(lines, '\n'));
  };
  for (const std::size_t step : steps) {
    EXPECT_EQ(test::signalled_code(next, SIGKILL, [&] { return done() >= step; }), -1)
        << "ended before the kill";
    if (fs::exists(run / "run.toml")) next = "train --resume " + run.string();
  }
  EXPECT_EQ(run_program(next).code, 0);
}

TEST(TrainVerb, KilledAgainAndAgainItEndsAsIfNothingHadHappened) {  // tests/kill_train.py does more of it
  const Folder folder;
  std::ofstream(folder / "b.jsonl")
      << "{\"text\": \"one document\"}\n{\"text\": \"another, longer document\"}\n";
  const auto arguments = [&](const std::string& out) {
    return train_arguments(folder, out, 120) + " --text " + (folder / "b.jsonl").string() +
           " --mix 2,1 --checkpoint-every 5 --eval-every 10 --eval-text " + folder.text();
  };
  kill_and_resume(arguments("killed"), folder / "killed.run", {0, 12, 13, 50});
  ASSERT_EQ(run_program(arguments("whole")).code, 0);
  for (const char* file : {"model.safetensors", "config.json"}) {
    EXPECT_EQ(read_file(folder / "killed" / file), read_file(folder / "whole" / file)) << file;
  }
  EXPECT_EQ(read_file(folder / "killed.run" / "best" / "model.safetensors"),
            read_file(folder / "whole.run" / "best" / "model.safetensors"));

  const test::Run again = run_program("train --resume " + (folder / "killed.run").string());
  EXPECT_EQ(again.code, 0);
  EXPECT_THAT(again.err, HasSubstr("has ended"));
}

TEST(TrainVerb, AFolderIsOneProcesssAtATime) {
  const Folder folder;
  const auto run = folder / "out.run";
  const auto steps = [&] {
    std::vector<std::int64_t> result;
    std::ifstream metrics(run / "metrics.jsonl");
    for (std::string line; std::getline(metrics, line);) {
      const Json json = Json::parse(line, nullptr, false);
      if (!json.is_discarded()) result.push_back(json["step"].get<std::int64_t>());
    }
    return result;
  };
  const std::string arguments = train_arguments(folder, "out", 1'000'000) + " --checkpoint-every 5";
  // While it runs, it can neither be resumed nor replaced, and does not notice that somebody tried.
  const auto tried = [&] {
    if (steps().size() < 6) return false;
    for (const std::string& other : {"train --resume " + run.string(), arguments + " --overwrite"}) {
      const test::Run second = run_program(other);
      EXPECT_EQ(second.code, 1);
      const std::string process = read_json(run / "lock")["process"];
      EXPECT_THAT(second.err, HasSubstr(run.string() + ": process " + process + " on "));
      EXPECT_THAT(second.err, HasSubstr("is training in it"));
    }
    return true;
  };
  ASSERT_EQ(interrupted_code(arguments, tried), 130);
  EXPECT_FALSE(fs::exists(run / "lock"));
  const std::vector<std::int64_t> done = steps();
  for (std::size_t i = 0; i < done.size(); ++i) ASSERT_EQ(done[i], static_cast<std::int64_t>(i) + 1);
}

TEST(TrainVerb, OneTeacherCacheServesTwoRunsAtOnceButNotTwoTemperatures) {
  const Folder folder;
  const auto arguments = [&](const std::string& out, const std::string& cache) {
    return "'" FATHOM_PROGRAM "' " + train_arguments(folder, out, 12) +
           " --teacher self --distil 1 --teacher-cache " + (folder / cache).string();
  };
  const auto together = [&](const std::string& one, const std::string& other) {
    const test::Run run = test::run_shell("sh -c \"{ " + one + "; echo first \\$?; } & { " + other +
                                          "; echo second \\$?; } & wait\"");
    return run.out + run.err;
  };
  EXPECT_THAT(together(arguments("one", "cache"), arguments("two", "cache")),
              testing::AllOf(HasSubstr("first 0"), HasSubstr("second 0")));
  EXPECT_EQ(read_file(folder / "one" / "model.safetensors"), read_file(folder / "two" / "model.safetensors"));
  const std::string said = together(arguments("three", "new"), arguments("four", "new") + " --temperature 2");
  EXPECT_THAT(said, HasSubstr("answers of another teacher, or to another text"));
  EXPECT_NE(fs::exists(folder / "three"), fs::exists(folder / "four")) << said;
}

TEST(TrainVerb, AFullDiskLeavesTheLastGoodCheckpoint) {
  const Folder folder;
  // No file may grow beyond 50 KB: a checkpoint is larger, a page of metrics is not.
  const std::string arguments = train_arguments(folder, "out", 12) + " --checkpoint-every 4";
  const std::string limited =
      "sh -c \"trap '' XFSZ; ulimit -f 100; exec " FATHOM_PROGRAM " " + arguments + "\"";
  const test::Run full = test::run_shell(limited);
  EXPECT_EQ(full.code, 1);
  EXPECT_THAT(full.err, HasSubstr("cannot write"));
  EXPECT_TRUE(fs::is_empty(folder / "out.run" / "checkpoints"));
  EXPECT_EQ(run_program("train --resume " + (folder / "out.run").string()).code, 0);
  EXPECT_EQ(run_program(train_arguments(folder, "whole", 12)).code, 0);
  EXPECT_EQ(read_file(folder / "out" / "model.safetensors"),
            read_file(folder / "whole" / "model.safetensors"));
}

TEST(TrainVerb, AFileSaysWhatTheCommandLineWould) {
  const Folder folder;
  const auto config = folder / "run.toml";
  std::ofstream(config) << "# a run\nmodel = '" << model << "'\ntext = ['" << folder.text() << "']\nout = '"
                        << (folder / "a").string()
                        << "'\nthreads = 1\ncontext = 32\nbatch-tokens = 64\ntokens = 320\nlr = 1e-3\n"
                           "no-bf16 = true\nlora-targets = ['q', 'v']\ntrain = 'lora'\n";
  ASSERT_EQ(run_program("train --config " + config.string()).code, 0);
  ASSERT_EQ(
      run_program(train_arguments(folder, "b", 5) + " --lr 1e-3 --no-bf16 --lora-targets q,v --train lora")
          .code,
      0);
  EXPECT_EQ(read_file(folder / "a" / "model.safetensors"), read_file(folder / "b" / "model.safetensors"));

  // What is printed says the same, and the command line goes before the file.
  const test::Run printed = run_program("train --config " + config.string() + " --lr 2e-3 --print-config");
  ASSERT_EQ(printed.code, 0) << printed.err;
  EXPECT_THAT(printed.out, HasSubstr("\nlr = 0.002\n"));
  EXPECT_THAT(printed.out, HasSubstr("\n# clip = 1\n"));
  std::ofstream(folder / "again.toml") << printed.out;
  EXPECT_EQ(run_program("train --print-config --config " + (folder / "again.toml").string()).out,
            printed.out);
}

TEST(TrainVerb, APresetComesAfterTheFileAndTheCommandLine) {
  const Folder folder;
  const auto config = folder / "run.toml";
  std::ofstream(config) << "preset = 'mistral-7b'\nlora-rank = 5\n";
  const test::Run printed = run_program("train --config " + config.string() + " --lr 2e-3 --print-config");
  ASSERT_EQ(printed.code, 0) << printed.err;
  for (const char* line :
       {"lr = 0.002", "lora-rank = 5", "lora-alpha = 4", "train = \"lora\"", "base = \"nf4\"",
        "context = 2048", "batch-tokens = 32768", "tokens = 163840000", "warmup = 0.02"}) {
    EXPECT_THAT(printed.out, HasSubstr("\n" + std::string(line) + "\n"));
  }
  EXPECT_EQ(run_program("train --preset gpt-7b --print-config").code, 2);
}

TEST(TrainVerb, AFileThatIsWrongIsToldByItsLine) {
  const Folder folder;
  const auto message = [&](const std::string& content) {
    std::ofstream(folder / "run.toml") << content;
    const test::Run run = run_program("train --config " + (folder / "run.toml").string());
    EXPECT_EQ(run.code, 2) << content;
    EXPECT_EQ(std::ranges::count(run.err, '\n'), 1) << run.err;
    return run.err;
  };
  EXPECT_THAT(message("model = 'x'\nleraning-rate = 1\n"),
              HasSubstr("run.toml line 2: unknown key 'leraning-rate'"));
  EXPECT_THAT(message("contxt = 512\n"), HasSubstr("did you mean 'context'?"));
  EXPECT_THAT(message("batch_tokens = 512\n"), HasSubstr("did you mean 'batch-tokens'?"));
  EXPECT_THAT(message("lr = 'fast'\n"), HasSubstr("line 1: key 'lr'"));
  EXPECT_THAT(message("lr = {a = 1}\n"), HasSubstr("key 'lr': expected a string, a number"));
  EXPECT_THAT(message("lr = = 1\n"), HasSubstr("run.toml line 1"));
  EXPECT_THAT(message("train = 'some'\n"), HasSubstr("key 'train'"));
  EXPECT_THAT(message("resume = 'x'\n"), HasSubstr("unknown key 'resume'"));
  EXPECT_THAT(message("lr = 1e-3\n"), HasSubstr("MODEL is missing"));
}

TEST(TrainVerb, ShowsWhatIsLearned) {
  const Folder folder;
  write_file(folder / "chats.jsonl",
             "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", "
             "\"content\": \"Hello\"}]}\n{\"text\": \"a\\u001bb\"}\n{\"text\": \"not shown\"}\n");
  const std::string name = (folder / "chats.jsonl").string();
  const test::Run run = run_program("train " + model + " --context 16 --show-mask 2 --text " + name);
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.out, name +
                         " line 1\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assist\n---- sequence 2 ----\n"
                         "ant\n[[Hello<|im_end|>]]\n<|im_end|>\n28 tokens, 6 of them learned\n\n" +
                         name + " line 2\n[[a\\x1bb<|im_end|>]]\n4 tokens, 4 of them learned\n");
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt", "chats.jsonl"));
  EXPECT_EQ(run_program("train " + model + " --show-mask 1").code, 2);
}

TEST(TrainVerb, SaysHowManySequencesTeachNothing) {
  const Folder folder;
  std::string chats;
  for (int i = 0; i < 4; ++i) {
    chats += "{\"messages\": [{\"role\": \"user\", \"content\": \"" + std::string(200, '?') +
             "\"}, {\"role\": \"assistant\", \"content\": \"Yes\"}]}\n";
  }
  write_file(folder / "chats.jsonl", chats);
  const test::Run run =
      run_program("train " + model + " --context 16 --batch-tokens 16 --tokens 320 --text " +
                  (folder / "chats.jsonl").string() + " --out " + (folder / "out").string());
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("sequences of 16 tokens have nothing to learn in them"));
  std::istringstream lines(read_file(folder / "out.run" / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);)
    EXPECT_GT(parse_json(line, "metrics.jsonl")["loss"].get<double>(), 0.01) << line;
}

TEST(TrainVerb, ADryRunLeavesNothing) {
  const Folder folder;
  const Json json = json_of(run_program(train_arguments(folder, "out", 6) + " --dry-run --json -"));
  EXPECT_EQ(json["steps"], 6);
  EXPECT_GT(json["step_seconds"], 0);
  EXPECT_GT(json["peak_bytes"], json["weight_bytes"]);
  const test::Run nowhere = run_program("train " + model + " --context 32 --batch-tokens 64 --dry-run");
  EXPECT_EQ(nowhere.code, 0) << nowhere.err;
  EXPECT_THAT(nowhere.out, HasSubstr("memory"));
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt"));
}

TEST(TrainVerb, HeldOutTextAndSamplesAreNoted) {
  const Folder folder;
  ASSERT_EQ(run_program(train_arguments(folder, "out", 6) + " --eval-every 3 --eval-text " + folder.text() +
                        " --prompt 'Sentence number' --prompt-tokens 4")
                .code,
            0);
  std::istringstream lines(read_file(folder / "out.run" / "evaluations.jsonl"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const Json json = parse_json(line, "evaluations.jsonl");
    EXPECT_EQ(json["samples"][0]["prompt"], "Sentence number");
    EXPECT_NEAR(json["perplexity"].get<double>(), std::exp(json["loss"].get<double>()), 1e-6);
  }
  EXPECT_EQ(count, 2);
  EXPECT_EQ(
      run_program("generate " + (folder / "out.run" / "best").string() + " --prompt a --max-tokens 2").code,
      0);
}

TEST(TrainVerb, RecordsAreLearnedByContentAndSaidToBe) {
  const Folder folder;
  const std::string lines = "{\"text\": \"Hello there, this is a text.\"}\n";
  const auto first_loss = [&](const std::string& name, const std::string& content, const std::string& note,
                              const std::string& more = "") {
    write_file(folder / name, content);
    const test::Run run = run_program(
        "train " + model + " --threads 1 --context 32 --batch-tokens 64 --tokens 64 --text " +
        (folder / name).string() + " --out " + (folder / "out").string() + " --overwrite --json - " + more);
    EXPECT_THAT(run.err, HasSubstr(name + ": " + note));
    return json_of(run)["first_loss"].get<double>();
  };
  const std::string begins = "begins \"Hello there, this is a text.\"";
  const double loss = first_loss("a.jsonl", lines + lines + lines, "JSON lines, " + begins);
  EXPECT_EQ(first_loss("a.json", lines + lines + lines, "JSON lines, " + begins), loss);
  EXPECT_EQ(first_loss("B.JSONL", lines + lines + lines, "JSON lines, " + begins), loss);
  EXPECT_EQ(first_loss("c.json", "[" + lines + "," + lines + "," + lines + "]", "JSON, " + begins), loss);
  EXPECT_NE(
      first_loss("c.json", lines + lines + lines, "plain text, begins \"{\\\"text", "--text-format text"),
      loss);
}

TEST(TrainVerb, ATeacherOfOtherTokensIsRefused) {
  const Folder folder;
  const fs::path teacher = folder / "teacher";
  fs::copy(model, teacher);
  const auto run = [&](const std::string& more = "") {
    return run_program(train_arguments(folder, "out", 1) + " --overwrite --teacher " + teacher.string() +
                       more);
  };
  EXPECT_EQ(run().code, 0);
  Json json = read_json(teacher / "tokenizer.json");
  std::swap(json["model"]["vocab"]["a"], json["model"]["vocab"]["b"]);
  write_file(teacher / "tokenizer.json", json.dump());
  const test::Run refused = run();
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, HasSubstr("the teacher's tokenizer is not that of the student"));
  EXPECT_THAT(refused.err, HasSubstr("is \"b\" there, \"a\" here"));
  EXPECT_EQ(run(" --teacher-anyway").code, 0);
  fs::remove(teacher / "tokenizer.json");
  const test::Run unknown = run();
  EXPECT_EQ(unknown.code, 0);
  EXPECT_THAT(unknown.err, HasSubstr("no tokenizer beside the teacher"));
}

/// `values` of a matrix with so many rows of zeros more.
Tensor padded(const Tensor& matrix, std::int64_t rows) {
  std::vector<float> values = decode(matrix);
  const std::int64_t width = matrix.shape[1];
  values.resize(values.size() + static_cast<std::size_t>(rows * width));
  return make_tensor(matrix.dtype, {matrix.shape[0] + rows, width}, values);
}

TEST(TrainVerb, ATeacherWhoseVocabularyIsPaddedTeachesTheSame) {
  const Folder folder;
  Checkpoint teacher = load_checkpoint(model);
  teacher.config.vocab_size += 8;
  teacher.hf_config["vocab_size"] = teacher.config.vocab_size;
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"})
    if (teacher.find(name) != nullptr) teacher.tensors.at(name) = padded(teacher.tensor(name), 8);
  save_checkpoint(teacher, folder / "teacher");
  const auto trained = [&](const std::string& out, const std::string& by) {
    const test::Run run = run_program(train_arguments(folder, out, 4) + " --teacher " + by);
    EXPECT_EQ(run.code, 0) << run.err;
    return read_file(folder / out / "model.safetensors");
  };
  EXPECT_EQ(trained("a", (folder / "teacher").string()), trained("b", model));
}

TEST(TrainVerb, SaysInOneLineWhatIsWrongWithTheData) {
  const Folder folder;
  const auto message = [&](const std::string& name, std::string_view content, const std::string& more = "") {
    write_file(folder / name, content);
    const test::Run run = run_program("train " + model + " --context 64 --out " + (folder / "out").string() +
                                      " --text " + (folder / name).string() + " " + more + " --quiet");
    EXPECT_EQ(run.code, 1) << name;
    EXPECT_EQ(std::ranges::count(run.err, '\n'), 1) << run.err;
    EXPECT_FALSE(fs::exists(folder / "out"));
    return run.err;
  };
  EXPECT_THAT(message("empty.txt", ""), HasSubstr("empty.txt: empty"));
  EXPECT_THAT(message("a.jsonl", "{\"text\": \"x\"}\n{\"text\": "),
              HasSubstr("a.jsonl: line 2: not valid JSON"));
  EXPECT_THAT(message("b.txt", "\xc3\x28"), HasSubstr("b.txt: byte 0 is not valid UTF-8"));
  EXPECT_THAT(message("c.txt", "x", "--teacher " FATHOM_TEST_DATA "/models/gemma"),
              HasSubstr("vocabulary of"));
  EXPECT_THAT(message("d.txt", "x", (folder / "none*.txt").string()), HasSubstr("no file matches"));
  EXPECT_THAT(message("e.csv", "text,label\nx,1\n"), HasSubstr("e.csv: CSV is not read"));
  EXPECT_THAT(message("f.json", "{\"body\": \"x\"}"),
              HasSubstr("f.json: line 1: field 'text' (or 'messages')"));

  fs::copy(model, folder / "bare");
  fs::remove(folder / "bare" / "generation_config.json");
  for (const auto& [name, key] :
       {std::pair("tokenizer_config.json", "eos_token"), {"config.json", "eos_token_id"}}) {
    Json json = read_json(folder / "bare" / name);
    json.erase(key);
    write_file(folder / "bare" / name, json.dump());
  }
  const test::Run bare = run_program("train " + (folder / "bare").string() + " --context 64 --out " +
                                     (folder / "out").string() + " --text " + folder.text());
  EXPECT_EQ(bare.code, 1);
  EXPECT_THAT(bare.err, HasSubstr("names no end-of-text token"));
}

}  // namespace
}  // namespace fathom
