"""Write one person for OpenSim (model `.osim`, motion `.mot`, markers `.trc`) and MuJoCo (model `.xml`, qpos)."""
