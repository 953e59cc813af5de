"""One registration in a process of its own: read two brains, register, write where template points went.

Runs in the environment of the tool it measures, so that it imports little else than the tool.

    python benchmarks/registration_peers.py TOOL CASE.npz RESULT.npz
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

# A case: images as (X, Y, Z) float32 and their vox2ras, all RAS+ mm; see `registration_warp`.
Case = dict[str, np.ndarray]
FLIP_XY = np.diag([-1.0, -1.0, 1.0, 1.0])


def _points(shape: tuple[int, ...], vox2ras: np.ndarray) -> np.ndarray:
    index = np.moveaxis(np.indices(shape, dtype=float), 0, -1)
    return index @ vox2ras[:3, :3].T + vox2ras[:3, 3]


def _ours(case: Case) -> Callable[[], np.ndarray]:
    from pds_bids.imaging.grid import Grid, PointMap
    from pds_bids.imaging.registration import register_epi_to_template, register_t1w_to_template
    from pds_bids.imaging.tissues import Template
    from pds_bids.modalities import Contrast

    grid = Grid(case["template_gm"].shape, case["template_vox2ras"])
    names = ("t1w", "gm", "wm", "csf")
    maps = [case[f"template_{name}"] for name in names]
    template = Template(
        grid,
        maps[0],
        case["template_mask"],
        *maps[1:],
        np.zeros(grid.shape, np.int32),
        {},
        "none",
        "benchmark",
    )
    native = Grid(case["native_head"].shape, case["native_vox2ras"])
    fine = Grid(case["fixed"].shape, case["fixed_vox2ras"])

    def run() -> np.ndarray:
        kind = str(case["kind"])
        if kind == "T1w":
            found = register_t1w_to_template(case["native_head"], native, template)
        else:
            found = register_epi_to_template(
                case["native_head"], case["native_mask"], native, template, Contrast(kind)
            )
        return PointMap.from_affine(fine, np.eye(4)).then(found.template2native).points

    return run


def _greedy(*, both_ways: bool) -> Callable[[Case], Callable[[], np.ndarray]]:
    """Run greedy near its defaults; `both_ways`: with the inverse, which it takes as long for again."""

    def prepare(case: Case) -> Callable[[], np.ndarray]:
        import picsl_greedy
        import SimpleITK as sitk

        from pds_bids.imaging import greedy
        from pds_bids.imaging.greedy import GreedyImage, to_sitk
        from pds_bids.imaging.grid import Grid, PointMap

        grid = Grid(case["fixed"].shape, case["fixed_vox2ras"])
        native = Grid(case["moving"].shape, case["native_vox2ras"])
        fixed, moving = GreedyImage(case["fixed"], grid), GreedyImage(case["moving"], native)
        start = np.eye(4)
        start[:3, 3] = _centre(case["moving"], native.vox2ras) - _centre(case["fixed"], grid.vox2ras)
        command = (
            "-d 3 -i fixed moving -o warp -m NCC 2x2x2 -n 100x50x10 -s 1.732vox 0.707vox -V 0 -threads 1"
        )

        def run() -> np.ndarray:
            matrix = greedy.affine(
                fixed, moving, start, dof=12, metric="NMI", schedule="100x50x10", nthreads=1
            )
            seen = Grid(native.shape, np.linalg.inv(matrix) @ native.vox2ras)
            engine = picsl_greedy.Greedy3D()
            images = {"fixed": to_sitk(fixed.data, grid), "moving": to_sitk(moving.data, seen), "warp": None}
            if both_ways:
                engine.execute(f"{command} -oinv unwarp", **images, unwarp=None)
            else:
                engine.execute(command, **images)
            lps = np.moveaxis(sitk.GetArrayFromImage(engine["warp"]).astype(float), (0, 1, 2), (2, 1, 0))
            there = grid.points() + lps * (-1, -1, 1)
            return PointMap(grid, there.astype(np.float32)).then(matrix).points

        return run

    return prepare


def _centre(image: np.ndarray, vox2ras: np.ndarray) -> np.ndarray:
    return np.average(_points(image.shape, vox2ras)[image > 0], axis=0)


def _sitk_images(case: Case) -> tuple:
    import SimpleITK as sitk

    images = []
    for name, vox2ras in (("fixed", case["fixed_vox2ras"]), ("moving", case["native_vox2ras"])):
        vox2lps = FLIP_XY @ vox2ras
        zooms = np.sqrt((vox2lps[:3, :3] ** 2).sum(0))
        image = sitk.GetImageFromArray(np.ascontiguousarray(case[name].T, np.float32))
        image.SetSpacing(zooms.tolist())
        image.SetOrigin(vox2lps[:3, 3].tolist())
        image.SetDirection((vox2lps[:3, :3] / zooms).ravel().tolist())
        images.append(image)
    return tuple(images)


def _simpleitk(case: Case) -> Callable[[], np.ndarray]:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    fixed, moving = _sitk_images(case)

    def run() -> np.ndarray:
        start = sitk.CenteredTransformInitializer(
            fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(0.2, 1)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsGradientDescent(1.0, 150, 1e-6, 10)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel([4, 2])
        method.SetSmoothingSigmasPerLevel([2, 1])
        method.SetInitialTransform(start, inPlace=True)
        method.Execute(fixed, moving)
        near = sitk.HistogramMatching(sitk.Resample(moving, fixed, start, sitk.sitkLinear), fixed)
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(60)
        demons.SetStandardDeviations(1.5)
        field = sitk.Cast(demons.Execute(fixed, near), sitk.sitkVectorFloat64)
        both = sitk.CompositeTransform([start, sitk.DisplacementFieldTransform(field)])
        size, direction = fixed.GetSize(), fixed.GetDirection()
        whole = sitk.TransformToDisplacementField(
            both, sitk.sitkVectorFloat64, size, fixed.GetOrigin(), fixed.GetSpacing(), direction
        )
        shift = np.moveaxis(sitk.GetArrayFromImage(whole), (0, 1, 2), (2, 1, 0)) * (-1, -1, 1)
        return _points(case["fixed"].shape, case["fixed_vox2ras"]) + shift

    return run


def _dipy(case: Case) -> Callable[[], np.ndarray]:
    from dipy.align.imaffine import AffineRegistration, MutualInformationMetric, transform_centers_of_mass
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric
    from dipy.align.transforms import AffineTransform3D, RigidTransform3D, TranslationTransform3D

    fixed, moving = case["fixed"].astype(float), case["moving"].astype(float)
    fixed2ras, moving2ras = case["fixed_vox2ras"], case["native_vox2ras"]

    def run() -> np.ndarray:
        matrix = transform_centers_of_mass(fixed, fixed2ras, moving, moving2ras).affine
        search = AffineRegistration(
            metric=MutualInformationMetric(32), level_iters=[1000, 100, 10], sigmas=[3, 1, 0],
            factors=[4, 2, 1], verbosity=0,
        )  # fmt: skip
        for kind in (TranslationTransform3D(), RigidTransform3D(), AffineTransform3D()):
            matrix = search.optimize(
                fixed, moving, kind, None, fixed2ras, moving2ras, starting_affine=matrix
            ).affine
        syn = SymmetricDiffeomorphicRegistration(CCMetric(3), [10, 10, 5])
        syn.verbosity = 0
        mapping = syn.optimize(fixed, moving, fixed2ras, moving2ras, matrix)
        place = _points(moving.shape, moving2ras)
        return np.stack([mapping.transform(place[..., k]) for k in range(3)], -1)

    return run


def _ants(kind: str) -> Callable[[Case], Callable[[], np.ndarray]]:
    def prepare(case: Case) -> Callable[[], np.ndarray]:
        import ants

        def image(data: np.ndarray, vox2ras: np.ndarray) -> "ants.ANTsImage":
            vox2lps = FLIP_XY @ vox2ras
            zooms = np.sqrt((vox2lps[:3, :3] ** 2).sum(0))
            return ants.from_numpy(
                np.ascontiguousarray(data, np.float32),
                vox2lps[:3, 3].tolist(),
                zooms.tolist(),
                vox2lps[:3, :3] / zooms,
            )

        fixed, moving = (
            image(case["fixed"], case["fixed_vox2ras"]),
            image(case["moving"], case["native_vox2ras"]),
        )

        def run() -> np.ndarray:
            # The package's SyN starts its affine from the centres of the fields of view only.
            result = ants.registration(fixed, moving, kind, random_seed=1, singleprecision=True)
            place = _points(case["moving"].shape, case["native_vox2ras"])
            warped = [
                ants.apply_transforms(
                    fixed, image(place[..., k], case["native_vox2ras"]), result["fwdtransforms"]
                ).numpy()
                for k in range(3)
            ]
            for path in {*result["fwdtransforms"], *result["invtransforms"]}:
                Path(path).unlink(missing_ok=True)
            return np.stack(warped, -1)

        return run

    return prepare


TOOLS: dict[str, Callable[[Case], Callable[[], np.ndarray]]] = {
    "pds-bids": _ours,
    "picsl-greedy affine NMI + NCC": _greedy(both_ways=True),
    "picsl-greedy one way": _greedy(both_ways=False),
    "SimpleITK affine MI + demons": _simpleitk,
    "dipy affine MI + SyN CC": _dipy,
    "ANTs SyNQuick": _ants("antsRegistrationSyNQuick[s]"),
    "ANTs SyN": _ants("SyN"),
    "ANTs SyN CC": _ants("SyNCC"),
}


def main(argv: list[str]) -> int:
    """Register, and print the cost as JSON."""
    tool, case_path, result_path = argv
    with np.load(case_path) as stored:
        run = TOOLS[tool](dict(stored))
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    points = run()
    wall_s, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    np.save(result_path, points.astype(np.float32))
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # ru_maxrss would start from what the parent held when it forked.
    peak_kb = next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    print(json.dumps({"cpu_s": cpu_s, "wall_s": wall_s, "peak_mb": peak_kb / 1024}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
