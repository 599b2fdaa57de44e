// Load the plan that build.py made, run denoising steps, print their time: load_plan [denoiser.plan [BATCH]]
//
// The sidecar beside the plan is compared first: TensorRT's version, the GPU and the size of the file must be those that
// the plan was built with. A plan is code, so only load plans that were built on your own device.

#include <NvInferPlugin.h>
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

class Logger : public nvinfer1::ILogger {
    void log(Severity severity, char const* text) noexcept override {
        if (severity <= Severity::kWARNING) std::cerr << text << '\n';
    }
};

void check(cudaError_t code) {
    if (code != cudaSuccess) throw std::runtime_error(cudaGetErrorString(code));
}

std::string read_file(std::string const& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

// build.py writes one `"name": value` per line.
void require(std::string const& sidecar, std::string const& name, std::string const& here) {
    if (sidecar.find("\"" + name + "\": " + here) == std::string::npos)
        throw std::runtime_error("the plan was built with another " + name + " than " + here + ": run python3 build.py");
}

std::string tensorrt_version() {
    int const version = getInferLibVersion();  // 8502, and from TensorRT 10 on 100300
    int const unit = version >= 100000 ? 100 : 10;
    int const major = version >= 100000 ? version / 10000 : version / 1000;
    return std::to_string(major) + "." + std::to_string(version / 100 % unit) + "." + std::to_string(version % 100);
}

void compare_identity(std::string const& plan, std::size_t size_bytes) {
    std::string const sidecar = read_file(plan.substr(0, plan.rfind('.')) + ".identity.json");
    cudaDeviceProp gpu{};
    check(cudaGetDeviceProperties(&gpu, 0));
    require(sidecar, "tensorrt", "\"" + tensorrt_version());  // the file has a fourth number
    require(sidecar, "gpu", "\"" + std::to_string(gpu.major) + "." + std::to_string(gpu.minor) + "\"");
    require(sidecar, "file_bytes", std::to_string(size_bytes) + "\n");
}

// Device memory of one tensor, 8 bytes for an element of any type: samples are noise, time-steps and labels zeros.
void* make_tensor(nvinfer1::Dims const& shape, nvinfer1::DataType type) {
    std::size_t count = 1;
    for (int axis = 0; axis < shape.nbDims; ++axis) count *= static_cast<std::size_t>(shape.d[axis]);
    void* memory = nullptr;
    check(cudaMalloc(&memory, count * 8));
    check(cudaMemset(memory, 0, count * 8));
    if (type != nvinfer1::DataType::kFLOAT) return memory;
    std::mt19937 generator(0);
    std::normal_distribution<float> normal;
    std::vector<float> noise(count);
    for (float& value : noise) value = normal(generator);
    check(cudaMemcpy(memory, noise.data(), count * sizeof(float), cudaMemcpyHostToDevice));
    return memory;
}

void run(std::string const& path, int batch) {
    std::string const plan = read_file(path);
    compare_identity(path, plan.size());
    Logger logger;
    if (!initLibNvInferPlugins(&logger, "")) throw std::runtime_error("TensorRT's plugins cannot be registered");
    std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
    std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine) throw std::runtime_error("TensorRT does not load " + path);
    std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
    for (int index = 0; index < engine->getNbIOTensors(); ++index) {
        char const* name = engine->getIOTensorName(index);
        if (engine->getTensorIOMode(name) != nvinfer1::TensorIOMode::kINPUT) continue;
        nvinfer1::Dims shape = engine->getTensorShape(name);
        shape.d[0] = batch;
        if (!context->setInputShape(name, shape)) throw std::runtime_error("the plan was not built for this batch");
    }
    for (int index = 0; index < engine->getNbIOTensors(); ++index) {
        char const* name = engine->getIOTensorName(index);
        context->setTensorAddress(name, make_tensor(context->getTensorShape(name), engine->getTensorDataType(name)));
    }
    cudaStream_t stream{};
    check(cudaStreamCreate(&stream));
    int const warmup = 20, steps = 100;
    std::chrono::steady_clock::time_point started;
    for (int step = 0; step < warmup + steps; ++step) {
        if (step == warmup) started = std::chrono::steady_clock::now();
        if (!context->enqueueV3(stream)) throw std::runtime_error("TensorRT could not execute the step");
        check(cudaStreamSynchronize(stream));
    }
    std::chrono::duration<double, std::milli> const total = std::chrono::steady_clock::now() - started;
    std::cout << total.count() / steps << " ms per denoising step, batch " << batch << '\n';
}

}  // namespace

int main(int count, char** arguments) {
    try {
        run(count > 1 ? arguments[1] : "denoiser.plan", count > 2 ? std::stoi(arguments[2]) : 1);
    } catch (std::exception const& error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
    return 0;
}
