"""The equations behind `pds_bids.imaging.pepolar`: images, field and poses at one resolution, and a step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pds_bids.imaging.distortion import PhaseEncoding
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.rigid import grid_centre

__all__ = ["Blip", "Level", "Problem", "moved_poses", "newton_step", "reach_mm"]

# A step of rotation enters the equations as the arc at this radius (mm).
ARC_MM = 50.0
# Squared strain of the displacement against squared differences of images in units of the brain's mean.
SMOOTHNESS = 0.02
# Weight of the barrier that keeps voxels from collapsing, and of the squared mean displacement (mm) in the
# brain: a constant field and a shift along the phase encoding look the same.
BARRIER, CENTRING = 0.01, 0.1
# Weight of the squared motion between the images (mm, arcs in mm), per voxel of the brain: a turned head with
# a tilted field looks nearly like none of either.
STILLNESS = 1e-5
# Beyond this strain the barrier goes on as a parabola, so that every field has a finite energy.
BARRIER_END = 0.9
# Conjugate gradients in a step.
N_GRADIENTS = 40


@dataclass(frozen=True, eq=False)
class Blip:
    """One echo-planar image and how it was read out.

    Parameters
    ----------
    image : ndarray
        ``(X, Y, Z)`` as acquired, RAS+ order: a b0, a spin echo, or the mean of a series.
    grid : Grid
        Its lattice.
    phase_encoding : PhaseEncoding
        Axis of the array and signed readout time.
    """

    image: np.ndarray
    grid: Grid
    phase_encoding: PhaseEncoding


@dataclass(frozen=True)
class Level:
    """Spacing of the field's lattice and smoothing of the images (SD), mm."""

    spacing_mm: float
    sigma_mm: float


@dataclass(frozen=True, eq=False)
class _View:
    """One image seen through a field and a pose: values, gradient per mm, density, place, in view or not."""

    image: np.ndarray
    gradient: np.ndarray
    density: np.ndarray
    place: np.ndarray
    inside: np.ndarray


def reach_mm(blip: Blip) -> np.ndarray:
    """Return how far 1 Hz moves signal in an image, ``(3,)`` RAS+ mm."""
    return blip.phase_encoding.readout_s * blip.grid.vox2ras[:3, blip.phase_encoding.axis]


class Problem:
    """Images and lattice at one level.

    The unknown field is the displacement (mm) in the image that it moves farthest; in image *k* it is
    ``mm * reach[k]``, a vector. ``strain[k]`` says how a difference along each lattice axis adds to the
    strain.
    """

    def __init__(
        self, blips: Sequence[Blip], scales: Sequence[float], brain: np.ndarray, level: Level
    ) -> None:
        first = blips[0].grid
        steps = [max(1, int(level.spacing_mm / zoom)) for zoom in first.zooms]
        shape = tuple(-(-n // step) for n, step in zip(first.shape, steps, strict=True))
        self.lattice = Grid((shape[0], shape[1], shape[2]), first.vox2ras @ np.diag([*steps, 1.0]))
        self.brain = brain[:: steps[0], :: steps[1], :: steps[2]]
        self.points = self.lattice.points()
        self.centre = grid_centre(first)
        hz2mm = np.array([reach_mm(blip) for blip in blips])
        self.mm_per_hz = float(np.linalg.norm(hz2mm, axis=1).max())
        self.reach = hz2mm / self.mm_per_hz
        self.strain = self.reach @ self.lattice.ras2vox[:3, :3].T
        self.grids = [blip.grid for blip in blips]
        self._splines = []
        for blip, scale in zip(blips, scales, strict=True):
            smooth = ndimage.gaussian_filter(
                np.asarray(blip.image, float) / scale, level.sigma_mm / np.asarray(blip.grid.zooms)
            )
            self._splines.append(ndimage.spline_filter(smooth, mode="mirror", output=np.float32))
        # The derivative of a cubic spline at its nodes is the central difference of its coefficients.
        self._gradients = [np.stack(np.gradient(spline)) for spline in self._splines]

    def lattice_values(self, values: np.ndarray, lattice: Grid | None) -> np.ndarray:
        """Return a field given on another lattice on this one; zero to begin with."""
        if lattice is None:
            return np.zeros(self.lattice.shape)
        index = np.moveaxis(apply_affine(lattice.ras2vox, self.points), -1, 0)
        return ndimage.map_coordinates(values, index, order=1, mode="nearest")

    def look(self, mm: np.ndarray, poses: np.ndarray) -> list[_View]:
        """See every image through a field and the poses."""
        views = []
        for k, grid in enumerate(self.grids):
            place = apply_affine(poses[k], self.points)
            index = np.moveaxis(apply_affine(grid.ras2vox, place + mm[..., None] * self.reach[k]), -1, 0)
            image = ndimage.map_coordinates(self._splines[k], index, mode="mirror", prefilter=False)
            slopes = [
                ndimage.map_coordinates(slope, index, order=1, mode="mirror") for slope in self._gradients[k]
            ]
            limit = np.asarray(grid.shape).reshape(3, 1, 1, 1) - 0.5
            inside = np.asarray(((index >= -0.5) & (index <= limit)).all(0))
            gradient = np.tensordot(np.stack(slopes, -1), grid.ras2vox[:3, :3], 1)
            views.append(_View(image, gradient, 1 + self.stretch(mm, k), place - self.centre, inside))
        return views

    def stretch(self, mm: np.ndarray, k: int) -> np.ndarray:
        """Return the strain of image `k` along its phase encoding."""
        total = np.zeros_like(mm)
        for axis in np.flatnonzero(np.abs(self.strain[k]) > 1e-6).tolist():
            total += self.strain[k, axis] * _difference(mm, axis)
        return total

    def stretch_adjoint(self, strain: np.ndarray, k: int) -> np.ndarray:
        """Apply the transpose of `stretch`."""
        total = np.zeros_like(strain)
        for axis in np.flatnonzero(np.abs(self.strain[k]) > 1e-6).tolist():
            total += self.strain[k, axis] * _difference_adjoint(strain, axis)
        return total

    def roughness(self, mm: np.ndarray) -> np.ndarray:
        """Return minus the Laplacian (per mm^2), the derivative of half the summed squared gradient."""
        total = np.zeros_like(mm)
        for axis, zoom in enumerate(self.lattice.zooms):
            step = np.diff(mm, axis=axis) / zoom**2
            ahead, behind = [slice(None)] * 3, [slice(None)] * 3
            ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
            total[tuple(ahead)] += step
            total[tuple(behind)] -= step
        return total

    def energy(self, mm: np.ndarray, poses: np.ndarray) -> float:
        """Return what is minimised."""
        _, residuals, _ = self.residuals(self.look(mm, poses))
        barrier = sum(float(_barrier(self.stretch(mm, k))[0].sum()) for k in range(len(self.grids)))
        centre = mm[self.brain].mean()
        return (
            0.5
            * (
                float((residuals**2).sum())
                + SMOOTHNESS * float((mm * self.roughness(mm)).sum())
                + CENTRING * self.brain.sum() * float(centre**2)
                + STILLNESS * self.brain.sum() * float((self.motion(poses) ** 2).sum())
            )
            + BARRIER * barrier
        )

    def motion(self, poses: np.ndarray) -> np.ndarray:
        """Return the motion of all images but the first about the centre, ``(K - 1, 6)``, mm and arcs."""
        turn = Rotation.from_matrix(poses[1:, :3, :3]).as_rotvec() * ARC_MM
        shift = poses[1:, :3, :3] @ self.centre + poses[1:, :3, 3] - self.centre
        return np.concatenate([shift, turn], 1)

    @staticmethod
    def residuals(views: list[_View]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the corrected images, their differences from their mean where all are seen, and where."""
        corrected = np.stack([view.image * view.density for view in views])
        seen = np.all([view.inside for view in views], axis=0)
        return corrected, (corrected - corrected.mean(0)) * seen, seen


def newton_step(problem: Problem, mm: np.ndarray, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solve the linearised equations for a step of the field (mm) and of all poses but the first."""
    linear = _Linear(problem, mm, poses)
    solved = _conjugate_gradients(linear.hessian, -linear.gradient, linear.diagonal)
    return _unpacked(solved, mm.shape)


class _Linear:
    """The equations around a field and poses: gradient, product with the Hessian, and its diagonal."""

    def __init__(self, problem: Problem, mm: np.ndarray, poses: np.ndarray) -> None:
        views = problem.look(mm, poses)
        _, residuals, seen = problem.residuals(views)
        self._problem, self._shape = problem, mm.shape
        self._by_shift = [(v.gradient @ problem.reach[k]) * v.density * seen for k, v in enumerate(views)]
        self._by_strain = [v.image * seen for v in views]
        self._by_pose = [
            np.concatenate([v.gradient, np.cross(v.place, v.gradient) / ARC_MM], -1)
            * (v.density * seen)[..., None]
            for v in views[1:]
        ]
        bends = [_barrier(problem.stretch(mm, k)) for k in range(len(views))]
        self._bends = [bend for _, _, bend in bends]
        n_brain = max(int(problem.brain.sum()), 1)
        self._brain = problem.brain / np.sqrt(n_brain)
        self._still = STILLNESS * n_brain
        field, pose = self._backward(residuals)
        field += self._regular(mm)
        for k, (_, slope, _) in enumerate(bends):
            field += BARRIER * problem.stretch_adjoint(slope, k)
        self.gradient = _packed(field, pose + self._still * problem.motion(poses))
        self.diagonal = self._diagonal()

    def hessian(self, flat: np.ndarray) -> np.ndarray:
        """Return the product with the Gauss-Newton Hessian."""
        field, pose = _unpacked(flat, self._shape)
        out, pose_out = self._backward(self._forward(field, pose))
        out += self._regular(field)
        for k, bend in enumerate(self._bends):
            out += BARRIER * self._problem.stretch_adjoint(bend * self._problem.stretch(field, k), k)
        return _packed(out, pose_out + self._still * pose)

    def _diagonal(self) -> np.ndarray:
        zooms = self._problem.lattice.zooms
        field = SMOOTHNESS * 2 * sum(zoom**-2 for zoom in zooms) * np.ones(self._shape)
        for k, bend in enumerate(self._bends):
            bent = self._by_strain[k] ** 2 + BARRIER * bend
            field += self._by_shift[k] ** 2 + bent * (self._problem.strain[k] ** 2).sum() / 2
        pose = np.array([np.square(columns).sum((0, 1, 2)) for columns in self._by_pose])
        return _packed(field, pose + self._still)

    def _forward(self, field: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Return how the differences of the images change with field and poses."""
        changes = np.empty((len(self._by_shift), *self._shape))
        for k, by_shift in enumerate(self._by_shift):
            changes[k] = by_shift * field + self._by_strain[k] * self._problem.stretch(field, k)
            if k:
                changes[k] += self._by_pose[k - 1] @ pose[k - 1]
        return changes - changes.mean(0)

    def _backward(self, changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Apply the transpose of `_forward` to changes whose mean is 0."""
        field, pose = np.zeros(self._shape), np.zeros((len(self._by_pose), 6))
        for k, by_shift in enumerate(self._by_shift):
            field += by_shift * changes[k]
            field += self._problem.stretch_adjoint(self._by_strain[k] * changes[k], k)
            if k:
                pose[k - 1] = np.tensordot(changes[k], self._by_pose[k - 1], 3)
        return field, pose

    def _regular(self, field: np.ndarray) -> np.ndarray:
        centring = CENTRING * self._brain * float((self._brain * field).sum())
        return SMOOTHNESS * self._problem.roughness(field) + centring


def _conjugate_gradients(
    product: Callable[[np.ndarray], np.ndarray], right: np.ndarray, diagonal: np.ndarray
) -> np.ndarray:
    """Solve a symmetric positive system, divided by its diagonal, roughly: the next step relinearises."""
    solution = np.zeros_like(right)
    residual = right.copy()
    scaled = residual / diagonal
    direction, power = scaled, float(residual @ scaled)
    goal = 1e-4 * power
    for _ in range(N_GRADIENTS):
        if power <= goal:
            break
        image = product(direction)
        length = power / float(direction @ image)
        solution = solution + length * direction
        residual = residual - length * image
        scaled = residual / diagonal
        power, before = float(residual @ scaled), power
        direction = scaled + (power / before) * direction
    return solution


def moved_poses(poses: np.ndarray, step: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the poses after a small step of all but the first; lengths and arcs in mm."""
    moved = poses.copy()
    for k, (shift, arc) in enumerate(zip(step[:, :3], step[:, 3:], strict=True), start=1):
        small = np.eye(4)
        small[:3, :3] = Rotation.from_rotvec(arc / ARC_MM).as_matrix()
        small[:3, 3] = centre - small[:3, :3] @ centre + shift
        moved[k] = small @ poses[k]
    return moved


def _barrier(strain: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``s^4 / (1 - s^2)``, which grows without limit as voxels collapse, and two derivatives."""
    s = np.clip(strain, -BARRIER_END, BARRIER_END)
    rest, beyond = 1 - s**2, strain - s
    value = s**4 / rest
    slope = 2 * s**3 * (2 - s**2) / rest**2
    bend = 2 * s**2 * (s**4 - 3 * s**2 + 6) / rest**3
    return value + slope * beyond + bend * beyond**2 / 2, slope + bend * beyond, bend


def _difference(values: np.ndarray, axis: int) -> np.ndarray:
    """Return half of the next minus the previous value; at the ends, the value itself stands in."""
    padded = np.pad(values, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
    n = values.shape[axis]
    return (padded.take(np.arange(2, n + 2), axis) - padded.take(np.arange(n), axis)) / 2


def _difference_adjoint(values: np.ndarray, axis: int) -> np.ndarray:
    """Apply the transpose of `_difference`."""
    v = np.moveaxis(values, axis, 0) / 2
    out = np.zeros_like(v)
    out[1:] += v[:-1]
    out[-1] += v[-1]
    out[:-1] -= v[1:]
    out[0] -= v[0]
    return np.moveaxis(out, 0, axis)


def _packed(field: np.ndarray, pose: np.ndarray) -> np.ndarray:
    return np.concatenate([field.ravel(), pose.ravel()])


def _unpacked(flat: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    n = int(np.prod(shape))
    return flat[:n].reshape(shape), flat[n:].reshape(-1, 6)
