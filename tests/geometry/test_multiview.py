"""Images are shrunk, sampled and projected to as a naive loop would."""

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.geometry.multiview import (
    PinholeCameras,
    camera_centres,
    focus_of_attention,
    pixel_indices,
    project,
    resize_rgba,
    sample_images,
    sample_maps,
    shrink,
    visible,
)
from nest_nerfstudio.types import Views

WIDTH, HEIGHT = 40, 20


def random_cameras(count: int) -> Views:
    """Cameras some four units from the origin that look roughly at it."""
    rotations = torch.linalg.qr(torch.randn(count, 3, 3, dtype=torch.float64)).Q
    rotations[:, 0] *= torch.linalg.det(rotations)[:, None]
    viewmats = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    viewmats[:, :3, :3] = rotations
    viewmats[:, :3, 3] = torch.tensor([0.1, -0.2, 4.0]) + 0.1 * torch.randn(count, 3)
    Ks = torch.tensor([[30.0, 0.0, 21.0], [0.0, 25.0, 9.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return Views(viewmats, Ks.repeat(count, 1, 1), WIDTH, HEIGHT)


def project_by_loop(cameras: Views, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [V, N, 2] and camera-space z [V, N], one point at a time."""
    pixels, depths = [], []
    for viewmat, K in zip(cameras.viewmats, cameras.Ks, strict=True):
        for position in positions:
            camera = viewmat[:3, :3] @ position + viewmat[:3, 3]
            pixels.append((K @ camera)[:2] / camera[2])
            depths.append(camera[2])
    shape = (len(cameras), len(positions))
    return torch.stack(pixels).unflatten(0, shape), torch.stack(depths).unflatten(0, shape)


def to_grid(pixels: Tensor) -> Tensor:
    return pixels / torch.tensor([WIDTH, HEIGHT]) * 2 - 1


def shrink_by_loop(image: Tensor, factor: int, how: str) -> Tensor:
    """[H, W, C], block by block."""
    rows = []
    for y in range(image.shape[0] // factor):
        row = []
        for x in range(image.shape[1] // factor):
            block = image[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
            pixels = block.flatten(0, 1)
            middle = block[factor // 2, factor // 2]
            row.append({"mean": pixels.mean(0), "min": pixels.amin(0), "nearest": middle}[how])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_views_are_pinhole_cameras() -> None:
    assert isinstance(random_cameras(1), PinholeCameras)
    assert not isinstance(torch.eye(4), PinholeCameras)


def test_projects_as_a_pinhole_does() -> None:
    cameras, positions = random_cameras(3), torch.randn(50, 3, dtype=torch.float64)
    grid, depths = project(cameras, positions)
    pixels, expected_depths = project_by_loop(cameras, positions)
    torch.testing.assert_close(depths, expected_depths)
    torch.testing.assert_close(grid, to_grid(pixels))


def test_sees_what_is_in_the_image_and_in_front() -> None:
    cameras = Views(
        torch.eye(4)[None], torch.tensor([[[10.0, 0, 20], [0, 10, 10], [0, 0, 1]]]), WIDTH, HEIGHT
    )
    inside = torch.tensor([[0.0, 0.0, 2.0], [1.9, 0.9, 1.0], [-1.9, -0.9, 1.0]])
    outside = torch.tensor([[2.1, 0.0, 1.0], [0.0, -1.1, 1.0], [0.0, 0.0, -2.0], [0.2, 0.1, -1.0]])
    seen = visible(*project(cameras, torch.cat([inside, outside])))
    assert seen[0].tolist() == [True] * 3 + [False] * 4


def test_points_on_or_beside_pixels_that_are_masked_out_are_not_visible() -> None:
    pixels = torch.tensor([[2.5, 3.5], [5.2, 3.5], [5.8, 3.5], [6.5, 3.5], [7.4, 3.5], [7.6, 3.5]])
    masks = torch.ones(1, HEIGHT, WIDTH, 1)
    masks[:, 3, 6] = 0
    seen = visible(to_grid(pixels)[None], torch.ones(1, len(pixels)), masks)
    assert seen[0].tolist() == [True, True, False, False, False, True]
    assert not visible(to_grid(pixels)[None], -torch.ones(1, len(pixels)), torch.ones_like(masks)).any()


def test_every_pixel_has_its_index() -> None:
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    centres = torch.stack([x, y], -1).flatten(0, 1)
    assert torch.equal(pixel_indices(to_grid(centres)[None], HEIGHT, WIDTH)[0], torch.arange(WIDTH * HEIGHT))
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    expected = [0, WIDTH - 1, WIDTH * (HEIGHT - 1), WIDTH * HEIGHT - 1]
    assert pixel_indices(corners[None], HEIGHT, WIDTH)[0].tolist() == expected
    assert pixel_indices(3 * corners[None], HEIGHT, WIDTH)[0].tolist() == expected


def test_maps_are_sampled_between_pixels_and_at_their_border() -> None:
    maps = torch.rand(2, 3, HEIGHT, WIDTH)
    pixels = torch.tensor([[7.5, 3.5], [8.0, 3.5], [7.5, 4.0], [-9.0, 3.5], [7.5, 99.0]])
    values = sample_maps(maps, to_grid(pixels).expand(2, -1, -1))
    expected = torch.stack(
        [
            maps[..., 3, 7],
            maps[..., 3, 7:9].mean(-1),
            maps[..., 3:5, 7].mean(-1),
            maps[..., 3, 0],
            maps[..., -1, 7],
        ],
        1,
    )
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)
    images = maps.permute(0, 2, 3, 1)
    torch.testing.assert_close(sample_images(images, to_grid(pixels).expand(2, -1, -1)), values)


def test_camera_centres_are_the_origins_of_the_cameras() -> None:
    viewmats = random_cameras(4).viewmats
    torch.testing.assert_close(camera_centres(viewmats), torch.linalg.inv(viewmats)[:, :3, 3])


def test_axes_that_meet_determine_the_focus() -> None:
    """Whatever the distance that is assumed for a single camera."""
    cameras, target = random_cameras(5), torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    viewmats = cameras.viewmats
    viewmats[:, :3, 3] = torch.tensor([0, 0, 4.0]) - viewmats[:, :3, :3] @ target
    focus = focus_of_attention(viewmats, 9.0, trust=1e-6)
    torch.testing.assert_close(focus, target, atol=1e-4, rtol=0)
    one = focus_of_attention(viewmats[:1], 2.5)
    torch.testing.assert_close(one, camera_centres(viewmats)[0] + 2.5 * viewmats[0, 2, :3])


def test_colours_do_not_fade_where_images_are_resized() -> None:
    """A red disc stays red, and covers as much; what is hidden where alpha is 0 does not bleed in."""
    alphas = (torch.rand(2, 12, 18, 1) > 0.5).float()
    red, green = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    rgba = torch.cat([torch.where(alphas > 0, red, green), alphas], -1)
    resized = resize_rgba(rgba, 4, 6)
    assert resized.shape == (2, 4, 6, 4)
    torch.testing.assert_close(resized[..., 3], shrink(alphas, 3, "mean")[..., 0])
    torch.testing.assert_close(
        resized[..., :3][resized[..., 3] > 0], red.expand((resized[..., 3] > 0).sum(), 3)
    )
    torch.testing.assert_close(resize_rgba(rgba, 5, 7)[..., 3].mean(), alphas.mean(), atol=0.05, rtol=0)


@pytest.mark.parametrize("how", ["mean", "min", "nearest"])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_shrinks_block_by_block(factor: int, how: str) -> None:
    """Rows and columns that are left over are cut off."""
    image = torch.randn(13, 18, 3, dtype=torch.float64)
    torch.testing.assert_close(shrink(image, factor, how), shrink_by_loop(image, factor, how))


def test_shrinks_any_batch_of_images() -> None:
    images = torch.rand(2, 3, 8, 11, 4)
    small = shrink(images, 2, "mean")
    assert small.shape == (2, 3, 4, 5, 4)
    torch.testing.assert_close(small[1, 2], shrink_by_loop(images[1, 2], 2, "mean"))


def test_gradients_pass_through_shrinking() -> None:
    image = torch.rand(4, 6, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: shrink(x, 2, "mean"), image)
    assert torch.autograd.gradcheck(lambda x: shrink(x, 2, "min"), image)
