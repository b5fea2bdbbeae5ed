// Asks a plugin what TensorRT's builder asks it, through the C++ interfaces that TensorRT calls.
//
// The registry, the creators and the plugins are the real ones: Python classes behind the trampolines of the bindings.
// Only the builder's side is here: dimensions, symbolic expressions and launch parameters, which are evaluated at once.

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "NvInferRuntime.h"
#include "impl/NvInferPythonPlugin.h"

using namespace nvinfer1;

namespace
{

struct DimensionValue : apiv::VDimensionExpr
{
    int64_t value;
    explicit DimensionValue(int64_t v) : value(v) {}
    // The build knows no size: a plugin that asks for one gets nonsense, and the test sees it.
    bool isConstant() const override { return false; }
    int64_t getConstantValue() const override { return -1; }
    bool isSizeTensor() const override { return false; }
};

struct Dimension : IDimensionExpr
{
    DimensionValue known;
    explicit Dimension(int64_t v) : known(v) { mImpl = &known; }
};

int64_t value_of(IDimensionExpr const& e) { return static_cast<Dimension const&>(e).known.value; }

struct Expressions : apiv::VExprBuilder
{
    std::vector<std::unique_ptr<Dimension>> made;
    IDimensionExpr const* constant(int64_t v) override
    {
        made.push_back(std::make_unique<Dimension>(v));
        return made.back().get();
    }
    IDimensionExpr const* operation(DimensionOperation op, IDimensionExpr const& a, IDimensionExpr const& b) override
    {
        int64_t const x = value_of(a), y = value_of(b);
        switch (op)
        {
        case DimensionOperation::kSUM: return constant(x + y);
        case DimensionOperation::kPROD: return constant(x * y);
        case DimensionOperation::kMAX: return constant(x > y ? x : y);
        case DimensionOperation::kMIN: return constant(x < y ? x : y);
        case DimensionOperation::kSUB: return constant(x - y);
        case DimensionOperation::kEQUAL: return constant(x == y);
        case DimensionOperation::kLESS: return constant(x < y);
        case DimensionOperation::kFLOOR_DIV: return constant(x / y);
        case DimensionOperation::kCEIL_DIV: return constant((x + y - 1) / y);
        default: return nullptr;
        }
    }
    IDimensionExpr const* declareSizeTensor(int32_t, IDimensionExpr const&, IDimensionExpr const&) override
    {
        return nullptr;
    }
};

struct Builder : IExprBuilder
{
    Expressions expressions;
    Builder() { mImpl = &expressions; }
};

int64_t number(ISymExpr* e) { return e == nullptr ? -1 : value_of(*static_cast<IDimensionExpr*>(e->getExpr())); }

struct LaunchValues : IKernelLaunchParamsImpl
{
    ISymExpr* at[7] = {};
    ISymExpr* getGridX() noexcept override { return at[0]; }
    ISymExpr* getGridY() noexcept override { return at[1]; }
    ISymExpr* getGridZ() noexcept override { return at[2]; }
    ISymExpr* getBlockX() noexcept override { return at[3]; }
    ISymExpr* getBlockY() noexcept override { return at[4]; }
    ISymExpr* getBlockZ() noexcept override { return at[5]; }
    ISymExpr* getSharedMem() noexcept override { return at[6]; }
    bool setGridX(ISymExpr* e) noexcept override { at[0] = e; return true; }
    bool setGridY(ISymExpr* e) noexcept override { at[1] = e; return true; }
    bool setGridZ(ISymExpr* e) noexcept override { at[2] = e; return true; }
    bool setBlockX(ISymExpr* e) noexcept override { at[3] = e; return true; }
    bool setBlockY(ISymExpr* e) noexcept override { at[4] = e; return true; }
    bool setBlockZ(ISymExpr* e) noexcept override { at[5] = e; return true; }
    bool setSharedMem(ISymExpr* e) noexcept override { at[6] = e; return true; }
};

struct Launch : IKernelLaunchParams
{
    LaunchValues values;
    Launch() { mImpl = &values; }
};

struct ScalarValues : ISymExprsImpl
{
    std::vector<ISymExpr*> at;
    ISymExpr* getSymExpr(int32_t i) const noexcept override { return at[i]; }
    bool setSymExpr(int32_t i, ISymExpr* e) noexcept override
    {
        if (i < 0 || i >= static_cast<int32_t>(at.size())) return false;
        at[i] = e;
        return true;
    }
    int32_t getNbSymExprs() const noexcept override { return static_cast<int32_t>(at.size()); }
    bool setNbSymExprs(int32_t n) noexcept override { at.resize(n, nullptr); return true; }
};

struct Scalars : ISymExprs
{
    ScalarValues values;
    Scalars() { mImpl = &values; }
};

DynamicPluginTensorDesc described(DataType type, Dims const& dims)
{
    DynamicPluginTensorDesc desc{};
    desc.desc = PluginTensorDesc{};
    desc.desc.dims = dims;
    desc.desc.type = type;
    desc.desc.format = TensorFormat::kLINEAR;
    desc.min = desc.max = desc.opt = dims;
    return desc;
}

void write_numbers(std::string& out, char const* name, std::vector<int64_t> const& numbers)
{
    out += "\"" + std::string(name) + "\": [";
    for (size_t i = 0; i < numbers.size(); ++i) out += (i ? ", " : "") + std::to_string(numbers[i]);
    out += "], ";
}

} // namespace

// Creates the compiled form of a plugin as the ONNX parser does, and asks it for outputs, formats, kernel and launch.
// Writes JSON to `json`; the kernel goes to `kernel_file`. Returns 0, or the number of the step that failed.
extern "C" int drive_plugin(char const* plugin_name, int32_t n_fields, char const** field_names,
    int32_t const* field_is_float, double const* field_values, int32_t n_inputs, int32_t const* input_types,
    int32_t const* input_ranks, int64_t const* input_shapes, char const* kernel_file, char* json, int32_t json_size)
{
    auto* found = getPluginRegistry()->getCreator(plugin_name, "1", "udx");
    if (found == nullptr) return 1;
    auto* creator = static_cast<IPluginCreatorV3Quick*>(found);
    std::vector<float> floats(n_fields);
    std::vector<int32_t> integers(n_fields);
    std::vector<PluginField> fields;
    for (int32_t i = 0; i < n_fields; ++i)
    {
        floats[i] = static_cast<float>(field_values[i]);
        integers[i] = static_cast<int32_t>(field_values[i]);
        void const* data = field_is_float[i] ? static_cast<void const*>(&floats[i]) : &integers[i];
        auto const type = field_is_float[i] ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32;
        fields.emplace_back(field_names[i], data, type, 1);
    }
    PluginFieldCollection const collection{n_fields, fields.data()};
    auto* plugin = creator->createPlugin(
        plugin_name, "udx", &collection, TensorRTPhase::kBUILD, QuickPluginCreationRequest::kSTRICT_AOT);
    if (plugin == nullptr) return 2;
    auto* core = static_cast<IPluginV3QuickCore*>(plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
    auto* build = static_cast<IPluginV3QuickAOTBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    if (core == nullptr || build == nullptr) return 3;

    Builder builder;
    int32_t const n_outputs = build->getNbOutputs();
    std::vector<DataType> in_types, out_types(n_outputs);
    std::vector<Dims> in_dims;
    std::vector<DimsExprs> in_symbols, out_symbols(n_outputs);
    for (int32_t i = 0; i < n_inputs; ++i)
    {
        in_types.push_back(static_cast<DataType>(input_types[i]));
        Dims dims{};
        DimsExprs symbols{};
        dims.nbDims = symbols.nbDims = input_ranks[i];
        for (int32_t axis = 0; axis < input_ranks[i]; ++axis)
        {
            dims.d[axis] = *input_shapes;
            symbols.d[axis] = builder.constant(*input_shapes++);
        }
        in_dims.push_back(dims);
        in_symbols.push_back(symbols);
    }
    if (build->getOutputDataTypes(out_types.data(), n_outputs, in_types.data(), input_ranks, n_inputs) != 0) return 4;
    if (build->getOutputShapes(in_symbols.data(), n_inputs, nullptr, 0, out_symbols.data(), n_outputs, builder) != 0)
        return 5;
    std::vector<Dims> out_dims;
    for (auto const& symbols : out_symbols)
    {
        Dims dims{};
        dims.nbDims = symbols.nbDims;
        for (int32_t axis = 0; axis < symbols.nbDims; ++axis) dims.d[axis] = value_of(*symbols.d[axis]);
        out_dims.push_back(dims);
    }
    std::vector<DynamicPluginTensorDesc> tensors;
    for (int32_t i = 0; i < n_inputs; ++i) tensors.push_back(described(in_types[i], in_dims[i]));
    for (int32_t i = 0; i < n_outputs; ++i) tensors.push_back(described(out_types[i], out_dims[i]));
    int32_t const n_combinations = build->getNbSupportedFormatCombinations(tensors.data(), n_inputs, n_outputs);
    if (n_combinations < 1) return 6;
    std::vector<PluginTensorDesc> combinations(n_combinations * tensors.size());
    if (build->getSupportedFormatCombinations(tensors.data(), n_inputs, n_outputs, combinations.data(), n_combinations)
        != 0)
        return 7;
    bool supported = false;
    for (int32_t c = 0; c < n_combinations; ++c)
    {
        bool same = true;
        for (size_t t = 0; t < tensors.size(); ++t)
        {
            auto const& wanted = combinations[c * tensors.size() + t];
            same = same && wanted.type == tensors[t].desc.type && wanted.format == TensorFormat::kLINEAR;
        }
        supported = supported || same;
    }
    if (build->configurePlugin(tensors.data(), n_inputs, tensors.data() + n_inputs, n_outputs) != 0) return 8;
    if (build->setTactic(0) != 0) return 9;
    Launch launch;
    Scalars scalars;
    if (build->getLaunchParams(in_symbols.data(), tensors.data(), n_inputs, n_outputs, &launch, &scalars, builder) != 0)
        return 10;
    std::vector<PluginTensorDesc> plain;
    for (auto const& tensor : tensors) plain.push_back(tensor.desc);
    char const* entry = nullptr;
    char* kernel = nullptr;
    int32_t kernel_size = 0;
    if (build->getKernel(plain.data(), n_inputs, plain.data() + n_inputs, n_outputs, &entry, &kernel, &kernel_size) != 0)
        return 11;
    FILE* file = std::fopen(kernel_file, "wb");
    if (file == nullptr) return 12;
    std::fwrite(kernel, 1, kernel_size, file);
    std::fclose(file);

    std::string out = "{";
    out += "\"name\": \"" + std::string(core->getPluginName()) + "\", ";
    out += "\"namespace\": \"" + std::string(core->getPluginNamespace()) + "\", ";
    out += "\"version\": \"" + std::string(core->getPluginVersion()) + "\", ";
    out += "\"entry\": \"" + std::string(entry) + "\", ";
    std::vector<int64_t> types, aliases, extra, sizes;
    for (auto type : out_types) types.push_back(static_cast<int64_t>(type));
    for (int32_t i = 0; i < n_outputs; ++i) aliases.push_back(build->getAliasedInput(i));
    for (auto* scalar : scalars.values.at) extra.push_back(number(scalar));
    for (auto* size : launch.values.at) sizes.push_back(number(size));
    write_numbers(out, "output_types", types);
    write_numbers(out, "aliased", aliases);
    write_numbers(out, "scalars", extra);
    write_numbers(out, "launch", sizes);
    out += "\"output_shapes\": [";
    for (int32_t i = 0; i < n_outputs; ++i)
    {
        out += i ? ", [" : "[";
        for (int32_t axis = 0; axis < out_dims[i].nbDims; ++axis)
            out += (axis ? ", " : "") + std::to_string(out_dims[i].d[axis]);
        out += "]";
    }
    out += std::string("], \"supported\": ") + (supported ? "true" : "false") + "}";
    if (static_cast<int32_t>(out.size()) >= json_size) return 13;
    std::strcpy(json, out.c_str());
    return 0;
}
