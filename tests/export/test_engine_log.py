"""What is read from the log of a build."""

from __future__ import annotations

from trt_vqgan.export.engine_log import read_engine_log

LINE = """Layers:
Name: __mye1_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata:
Name: norm, LayerType: kgen, Inputs: [ { Name: n, Dimensions: [-1], Datatype: Int32, Format: F }, { Name: x, \
Dimensions: [-1,8], Datatype: Float, Format: F }], Constants: [ { Name: w, Dimensions: [8], Datatype: Float, Format: F \
}], Outputs: [ { Name: y, Dimensions: [-1,8], Datatype: Half, Format: F }], TacticName: t, StreamId: 0, Metadata: m
Name: fc [profile 1]_1, LayerType: gemm, Inputs: [ { Name: y, Dimensions: [-1,8], Datatype: Half, Format: F }], \
Constants: [], Outputs: [ { Name: z, Dimensions: [-1,8], Datatype: Half, Format: F }], TacticName: t, StreamId: 0, \
Metadata: m

I/O Tensors:
 Name: x, IOMode: Input, DataType: Float, Dimensions: [-1,8], Location: Device, IsShapeInferenceIO: false, \
ProfileInfo: [ { MinShape: [1,8], OptShape: [2,8], MaxShape: [64,8], Format: F (kLINEAR) }, { MinShape: [1,8], \
OptShape: [4,8], MaxShape: [8,8], Format: F (kLINEAR) }]
 Name: z, IOMode: Output, DataType: Half, Dimensions: [-1,8], Location: Device, IsShapeInferenceIO: false, \
ProfileInfo: [ { Format: F (kLINEAR) }, { Format: F (kLINEAR) }]

Engine Metadata:
 Multi-Device: Disabled"""


def test_tensors_profiles_and_layers() -> None:
    report = read_engine_log(["Building", LINE, "Done"])
    assert report is not None
    x, z = report.tensors
    assert (x.name, x.is_input, x.dtype, x.dimensions) == ("x", True, "Float", (-1, 8))
    assert x.profiles == (((1, 8), (2, 8), (64, 8)), ((1, 8), (4, 8), (8, 8)))
    assert (z.name, z.is_input, z.dtype, z.profiles) == ("z", False, "Half", ())
    assert [layer.kind for layer in report.layers] == ["shape_call", "kgen", "gemm"]
    assert report.layers[1].inputs == ("Int32", "Float")
    assert report.layers[1].constants == ("Float",)
    assert report.layers[1].outputs == ("Half",)
    assert report.precisions == {"Float": 1, "Half": 1}


def test_a_log_without_them_has_no_report() -> None:
    assert read_engine_log([]) is None
    assert read_engine_log(["Layers:\nof another kind", "I/O Tensors:"]) is None
