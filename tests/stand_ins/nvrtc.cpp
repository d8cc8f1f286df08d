// NVRTC for machines without a GPU: the host's compiler makes a library of the kernels, with cuda_words.h in place of what
// NVRTC has built in. The "cubin" is that library's path. Compile with -DFOLDER="…", where the libraries go.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

namespace {

struct Program {
  std::string source, log, image;
};

const std::string here = std::string(__FILE__).substr(0, std::string(__FILE__).rfind('/'));

// Runs the kernels of this source, each of which takes one Scan.
const char* const launcher = R"(
extern "C" void stand_in_launch(void* kernel, const unsigned* grid, unsigned threads, void** arguments) {
  stand_in::run(grid, threads, [=] { reinterpret_cast<void (*)(Scan)>(kernel)(*static_cast<const Scan*>(arguments[0])); });
}
)";

size_t size(const std::string& text) { return text.size() + 1; }
int copy(const std::string& text, char* to) { std::memcpy(to, text.c_str(), size(text)); return 0; }

}  // namespace

extern "C" {

int nvrtcVersion(int* major, int* minor) { *major = 13; *minor = 0; return 0; }
int nvrtcGetNumSupportedArchs(int* n) { *n = 3; return 0; }
int nvrtcGetSupportedArchs(int* known) { known[0] = 75; known[1] = 90; known[2] = 120; return 0; }

int nvrtcCreateProgram(Program** program, const char* source, const char*, int headers, const char**, const char**) {
  *program = new Program{source, "", ""};
  return headers != 0;
}
int nvrtcDestroyProgram(Program** program) { delete *program; return 0; }

int nvrtcCompileProgram(Program* program, int n, const char** options) {
  char folder[] = FOLDER "/module-XXXXXX";
  if (!mkdtemp(folder)) return 1;
  const std::string base = folder;
  std::ofstream(base + "/kernel.cpp") << "#include \"" << here << "/cuda_words.h\"\n#line 1 \"kernel.cu\"\n"
                                      << program->source << launcher;
  std::string command = "c++ -std=c++17 -O1 -shared -fPIC -Wall -Wno-unknown-pragmas";
  for (int i = 0; i < n; ++i)
    if (!std::strncmp(options[i], "-D", 2)) command += std::string(" ") + options[i];
  command += " -o " + base + "/kernel.so " + base + "/kernel.cpp >" + base + "/log 2>&1";
  const int failed = std::system(command.c_str());
  std::ifstream log(base + "/log");
  program->log.assign(std::istreambuf_iterator<char>(log), {});
  program->image = "stand-in:" + base + "/kernel.so";
  return failed ? 6 : 0;
}

int nvrtcGetProgramLogSize(Program* program, size_t* n) { *n = size(program->log); return 0; }
int nvrtcGetProgramLog(Program* program, char* to) { return copy(program->log, to); }
int nvrtcGetCUBINSize(Program* program, size_t* n) { *n = size(program->image); return 0; }
int nvrtcGetCUBIN(Program* program, char* to) { return copy(program->image, to); }
int nvrtcGetPTXSize(Program* program, size_t* n) { *n = size(program->image); return 0; }
int nvrtcGetPTX(Program* program, char* to) { return copy(program->image, to); }

}  // extern "C"
