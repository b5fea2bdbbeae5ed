import subprocess
import sys

MODULES = ("nuscenes", "load", "augment", "check", "evaluation", "images", "points", "tables", "inputs")


def test_data_loads_neither_torch_nor_the_devkit_until_needed():
    imports = "; ".join(f"import udx.data.{module}" for module in MODULES)
    heavy = "{'torch', 'nuscenes', 'matplotlib', 'cv2', 'pyquaternion'}"
    script = f"import sys; {imports}; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
